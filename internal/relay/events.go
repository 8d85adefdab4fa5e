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

// Limits on the log records per second that peers can cause. logRate is the limit on
// all. Of each class, logReserve are for addresses without a record of that class in this
// second, and logNew more for addresses without one in the last minute: ten addresses that
// use up the first in each second are not new. The rest, logPool, is for all records. An
// address that used a third of the pool in the second before can use at most a third of
// it now; only bursts may use more. Neither a class nor an address, nor ten addresses,
// can therefore suppress the first record of another in a minute. Records above the
// limits are suppressed and counted.
const (
	logRate    = 110
	logReserve = 8
	logNew     = 2
	logPool    = logRate - eventClasses*(logReserve+logNew)
)

// logAddresses is the limit on the addresses that are counted separately in one second,
// and on those that are known in one minute.
const logAddresses = 4 << 10

// suppressedEvery is the shortest time between two records about suppressed records.
const suppressedEvery = 10 * time.Second

// logText is the number of bytes of a peer's text that go into a record.
const logText = 128

// eventClass is a kind of event that has a reserve of its own in the log.
type eventClass int

const (
	eventClaim      eventClass = iota // a binary got a slot
	eventConflict                     // another binary held it: refused, or taken over
	eventRefusal                      // a limit was reached
	eventConnection                   // connections that come and go
	eventFrame                        // frames that are dropped
	eventClasses    = iota
)

var eventClassNames = [eventClasses]string{
	eventClaim: "claim", eventConflict: "conflict", eventRefusal: "refusal", eventConnection: "connection", eventFrame: "frame",
}

// events writes the relay's log. Its event names and keys are a closed set, which a test
// checks. No record has a payload, a token or a user-agent.
type events struct {
	log     *slog.Logger
	clock   clock.Clock
	quiet   bool // the log discards everything
	dropped [eventClasses]prometheus.Counter

	mu          sync.Locker // guards all below
	second      time.Time   // begin of the second of the counts below
	pool        int         // records from the pool
	reserved    [eventClasses]int
	newcomers   [eventClasses]int // records of logNew
	addresses   map[netip.Prefix]logged
	before      map[netip.Prefix]logged // of the second before
	minute      time.Time               // begin of the minute of known
	known       map[netip.Prefix]eventSet
	knownBefore map[netip.Prefix]eventSet // of the minute before
	suppressed  [eventClasses]int         // since they were last reported
	pending     bool                      // a timer is set that reports them
}

// eventSet is the classes of which an address had records.
type eventSet uint8

func (s eventSet) has(class eventClass) bool      { return s&(1<<class) != 0 }
func (s eventSet) with(class eventClass) eventSet { return s | 1<<class }

// logged counts the records of one address in one second.
type logged struct {
	classes eventSet
	pool    int // records from the pool
}

func newEvents(log *slog.Logger, rt Runtime, suppressed [eventClasses]prometheus.Counter) *events {
	return &events{
		log:         log,
		clock:       rt.Clock,
		quiet:       !log.Enabled(context.Background(), slog.LevelError),
		dropped:     suppressed,
		mu:          rt.NewLock("events"),
		addresses:   make(map[netip.Prefix]logged),
		before:      make(map[netip.Prefix]logged),
		known:       make(map[netip.Prefix]eventSet),
		knownBefore: make(map[netip.Prefix]eventSet),
	}
}

// emit writes a record that a peer at that address caused, unless the level is off or a
// limit is reached. The zero address is for records without a known address; they use the
// pool only.
func (e *events) emit(class eventClass, from netip.Addr, level slog.Level, event string, attrs ...slog.Attr) {
	if e.quiet || !e.log.Enabled(context.Background(), level) {
		return
	}
	if e.admit(class, from) {
		e.log.LogAttrs(context.Background(), level, event, attrs...)
	}
}

// admit reports whether a record may be written now. If not, it counts the record. The
// number is logged after suppressedEvery.
func (e *events) admit(class eventClass, from netip.Addr) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := e.clock.Now(); now.Sub(e.second) >= time.Second {
		e.addresses, e.before = e.before, e.addresses
		clear(e.addresses)
		if now.Sub(e.second) >= 2*time.Second {
			clear(e.before)
		}
		e.second, e.pool, e.reserved, e.newcomers = now, 0, [eventClasses]int{}, [eventClasses]int{}
		if since := now.Sub(e.minute); since >= time.Minute {
			e.minute = now
			e.known, e.knownBefore = e.knownBefore, e.known
			clear(e.known)
			if since >= 2*time.Minute {
				clear(e.knownBefore)
			}
		}
	}
	var key netip.Prefix // the zero one is for all that are not counted separately
	if from.IsValid() {
		key = home(from)
		if _, known := e.addresses[key]; !known && len(e.addresses) >= logAddresses {
			key = netip.Prefix{}
		}
	}
	has := e.addresses[key]
	isKnown := (e.known[key] | e.knownBefore[key]).has(class)
	switch {
	case key.IsValid() && !has.classes.has(class) && e.reserved[class] < logReserve:
		e.reserved[class]++
	case key.IsValid() && !isKnown && e.newcomers[class] < logNew:
		e.newcomers[class]++
	case e.pool < logPool && (has.pool < logPool/3 || e.before[key].pool < logPool/3):
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
	has.classes = has.classes.with(class)
	e.addresses[key] = has
	if set, ok := e.known[key]; ok || len(e.known) < logAddresses {
		e.known[key] = set.with(class)
	}
	return true
}

// report is the function of the timer that admit sets.
func (e *events) report() {
	e.mu.Lock()
	e.pending = false
	e.mu.Unlock()
	e.flush()
}

// flush logs the number of suppressed records of each class since the last such record,
// if it is not 0. The relay calls it at its end, too.
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

// ending returns the close code and the reason of a close as attributes.
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

// accessRefused logs an upgrade that was refused because its server-id has no access, or
// because that is not known now.
func (e *events) accessRefused(a *attempt, err error) {
	e.emit(eventRefusal, a.from, slog.LevelWarn, "access_refused", serverID(a.server), remote(a.from), slog.String("path", string(a.endpoint)), slog.String("err", err.Error()))
}

// shed logs the number of connections that were closed for lack of memory, and the address
// of the first one.
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

// ended logs a missed heartbeat, if that is the reason.
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

// envelopeDeparted logs an envelope for a phone that left a short time ago. Every daemon
// sends such envelopes.
func (e *events) envelopeDeparted(b *binary) {
	e.emit(eventFrame, b.from, slog.LevelDebug, "envelope_for_departed_phone", serverID(b.server))
}
