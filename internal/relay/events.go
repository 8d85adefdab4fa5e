package relay

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// What the log takes of the records that peers can cause, in each second. It is
// logRate records in all: logPool for whoever comes first, and logReserve of each
// class for addresses of which the log has no record of that class in this second.
// An address that has taken a third of the pool in the second before has at most a
// third of it: only what comes in bursts may be more. So neither a class nor an address
// keeps another's records out. The others are suppressed and counted.
const (
	logRate    = 100
	logReserve = 8
	logPool    = logRate - eventClasses*logReserve
)

// logAddresses bounds the addresses that are told apart in one second.
const logAddresses = 4 << 10

// suppressedEvery is how often the number of suppressed records is logged at
// most.
const suppressedEvery = 10 * time.Second

// logText is how many bytes of a text that a peer chose go into a record.
const logText = 128

// eventClass is a kind of event that has a reserve of its own in the log.
type eventClass int

const (
	eventClaim      eventClass = iota // a binary got a slot
	eventConflict                     // it was another's: refused, or taken over
	eventRefusal                      // a limit was reached
	eventConnection                   // connections that come and go
	eventFrame                        // frames that go nowhere
	eventClasses    = iota
)

var eventClassNames = [eventClasses]string{
	eventClaim: "claim", eventConflict: "conflict", eventRefusal: "refusal", eventConnection: "connection", eventFrame: "frame",
}

// events writes the relay's log. Its event names and keys are a closed set,
// held by a test: no payload, no token, no user-agent ever.
type events struct {
	log     *slog.Logger
	clock   clock.Clock
	quiet   bool // the log discards everything
	dropped [eventClasses]prometheus.Counter

	mu         sync.Locker // guards all below
	second     time.Time   // since when the counts below hold, for a second
	pool       int         // records taken from it
	reserved   [eventClasses]int
	addresses  map[netip.Prefix]logged
	before     map[netip.Prefix]logged // of the second before
	suppressed [eventClasses]int       // since they were last reported
	pending    bool                    // a timer is going to report them
}

// logged is what the log has of one address in this second.
type logged struct {
	classes [eventClasses]bool
	pool    int // records from the pool
}

func newEvents(log *slog.Logger, rt Runtime, suppressed [eventClasses]prometheus.Counter) *events {
	return &events{
		log:       log,
		clock:     rt.Clock,
		quiet:     !log.Enabled(context.Background(), slog.LevelError),
		dropped:   suppressed,
		mu:        rt.NewLock("events"),
		addresses: make(map[netip.Prefix]logged),
		before:    make(map[netip.Prefix]logged),
	}
}

// emit writes one record that a peer at that address caused, unless the log does
// not take records of that level or there have been too many. The zero address is
// for records of which the address is not known; they come from the pool only.
func (e *events) emit(class eventClass, from netip.Addr, level slog.Level, event string, attrs ...slog.Attr) {
	if e.quiet || !e.log.Enabled(context.Background(), level) {
		return
	}
	if e.admit(class, from) {
		e.log.LogAttrs(context.Background(), level, event, attrs...)
	}
}

// admit reports whether a record may be written now. If not, it counts the
// record, and sees to it that the number is reported after suppressedEvery.
func (e *events) admit(class eventClass, from netip.Addr) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := e.clock.Now(); now.Sub(e.second) >= time.Second {
		e.addresses, e.before = e.before, e.addresses
		clear(e.addresses)
		if now.Sub(e.second) >= 2*time.Second {
			clear(e.before)
		}
		e.second, e.pool, e.reserved = now, 0, [eventClasses]int{}
	}
	var whose netip.Prefix // the zero one is for all that are not told apart
	if from.IsValid() {
		whose = home(from)
		if _, known := e.addresses[whose]; !known && len(e.addresses) >= logAddresses {
			whose = netip.Prefix{}
		}
	}
	has := e.addresses[whose]
	switch {
	case whose.IsValid() && !has.classes[class] && e.reserved[class] < logReserve:
		e.reserved[class]++
	case e.pool < logPool && (has.pool < logPool/3 || e.before[whose].pool < logPool/3):
		e.pool++
		has.pool++
	default:
		e.dropped[class].Inc()
		e.suppressed[class]++
		if !e.pending {
			e.pending = true
			e.clock.AfterFunc(suppressedEvery, e.report)
		}
		return false
	}
	has.classes[class] = true
	e.addresses[whose] = has
	return true
}

// report is the end of the time that admit began.
func (e *events) report() {
	e.mu.Lock()
	e.pending = false
	e.mu.Unlock()
	e.flush()
}

// flush logs how many records of each class were suppressed since that was last
// logged, if any were. Call it when the relay ends, too.
func (e *events) flush() {
	e.mu.Lock()
	suppressed := e.suppressed
	e.suppressed = [eventClasses]int{}
	e.mu.Unlock()
	for class, n := range suppressed {
		if n > 0 {
			e.log.Warn("log_records_suppressed", "class", eventClassNames[class], "count", n)
		}
	}
}

func serverID(id wire.ServerID) slog.Attr {
	return slog.String("server_id", wire.Printable(string(id), logText))
}

func connID(id wire.ConnID) slog.Attr { return slog.String("conn_id", string(id)) }
func remote(a netip.Addr) slog.Attr   { return slog.String("remote", a.String()) }

// closeCode returns the code that the log shows for the end of c. Without a code it is
// one of those that RFC 6455 §7.4.1 reserves for logs: 1005 if the peer sent a close
// frame, and 1006 if it did not.
func closeCode(code wire.CloseCode, c *conn) slog.Attr {
	switch {
	case code != wire.CloseNone:
	case c.left.Load():
		code = closeNoCode
	default:
		code = closeNoFrame
	}
	return slog.Int("close_code", int(code))
}

const (
	closeNoCode  wire.CloseCode = 1005
	closeNoFrame wire.CloseCode = 1006
)

func (e *events) since(began time.Time) slog.Attr {
	return slog.Duration("duration", e.clock.Now().Sub(began))
}

// ending is why a connection ended, in the keys that there are for it.
func ending(c *conn, code wire.CloseCode, reason string) []slog.Attr {
	attrs := []slog.Attr{closeCode(code, c)}
	if reason != "" {
		attrs = append(attrs, slog.String("err", reason))
	}
	return attrs
}

func (e *events) refused(event string, from netip.Addr, d endpoint, err error) {
	attrs := []slog.Attr{remote(from), slog.String("path", string(d))}
	if err != nil {
		attrs = append(attrs, slog.String("err", err.Error()))
	}
	e.emit(eventRefusal, from, slog.LevelWarn, event, attrs...)
}

// shed writes that so many connections were closed for want of memory, the first
// of them of that address.
func (e *events) shed(closed int, from netip.Addr) {
	e.emit(eventRefusal, from, slog.LevelWarn, "memory_short", remote(from),
		slog.String("err", fmt.Sprintf("memory is short: closed connections of the addresses that hold the most, this one first: %d", closed)))
}

func (e *events) serverClaimed(b *binary) {
	e.emit(eventClaim, b.from, slog.LevelInfo, "server_claimed", serverID(b.server), remote(b.from), slog.String("binary_version", b.version))
}

func (e *events) serverConflict(b *binary) {
	e.emit(eventConflict, b.from, slog.LevelWarn, "server_id_conflict", serverID(b.server), remote(b.from))
}

func (e *events) serverTakeover(b *binary) {
	e.emit(eventConflict, b.from, slog.LevelWarn, "server_id_takeover", serverID(b.server), remote(b.from))
}

func (e *events) serverReleased(b *binary, code wire.CloseCode, reason string) {
	e.ended(b.from, reason, serverID(b.server), remote(b.from))
	e.emit(eventConnection, b.from, slog.LevelInfo, "server_released", append(ending(&b.conn, code, reason), serverID(b.server), remote(b.from), e.since(b.began))...)
}

func (e *events) graceExpired(id wire.ServerID) {
	e.emit(eventConnection, netip.Addr{}, slog.LevelInfo, "server_grace_expired", serverID(id))
}

func (e *events) phoneRegistered(p *phone, device string) {
	e.emit(eventConnection, p.from, slog.LevelInfo, "phone_registered", serverID(p.server), connID(p.id), remote(p.from), slog.String("device_name", device))
}

func (e *events) phoneCarried(h wire.PhoneHello, from netip.Addr) {
	e.emit(eventConnection, from, slog.LevelInfo, "phone_carried", serverID(h.Server), remote(from), slog.String("device_name", h.Device))
}

func (e *events) phoneRefused(p *phone, event, device string) {
	e.emit(eventRefusal, p.from, slog.LevelInfo, event, serverID(p.server), remote(p.from), slog.String("device_name", device))
}

func (e *events) phoneUnregistered(p *phone, code wire.CloseCode, reason string) {
	e.ended(p.from, reason, serverID(p.server), connID(p.id), remote(p.from))
	e.emit(eventConnection, p.from, slog.LevelInfo, "phone_unregistered", append(ending(&p.conn, code, reason), serverID(p.server), connID(p.id), remote(p.from), e.since(p.began))...)
}

// ended adds the record that a missed heartbeat deserves.
func (e *events) ended(from netip.Addr, reason string, attrs ...slog.Attr) {
	if reason == wire.ReasonHeartbeat {
		e.emit(eventConnection, from, slog.LevelInfo, "heartbeat_timeout", attrs...)
	}
}

func (e *events) noticeFailed(p *phone, why string) {
	e.emit(eventFrame, p.from, slog.LevelWarn, "phone_close_notice_send_failed", serverID(p.server), connID(p.id), slog.String("err", why))
}

func (e *events) envelopeDropped(b *binary, err string) {
	e.emit(eventFrame, b.from, slog.LevelWarn, "envelope_dropped", serverID(b.server), slog.String("err", err))
}

// envelopeDeparted is for an envelope that names a phone that has just left.
// Every daemon sends such ones.
func (e *events) envelopeDeparted(b *binary) {
	e.emit(eventFrame, b.from, slog.LevelDebug, "envelope_for_departed_phone", serverID(b.server))
}
