package relay

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// logRate bounds the records that peers can cause, per second and after a
// burst of as many. The others are suppressed and counted.
const logRate = 100

// suppressedEvery is how often the number of suppressed records is logged at
// most.
const suppressedEvery = 10 * time.Second

// logText is how many bytes of a text that a peer chose go into a record.
const logText = 128

// events writes the relay's log. Its event names and keys are a closed set,
// held by a test: no payload, no token, no user-agent ever.
type events struct {
	log     *slog.Logger
	clock   clock.Clock
	quiet   bool // the log discards everything
	dropped prometheus.Counter

	mu         sync.Locker // guards all below
	allow      *rate.Limiter
	suppressed int  // since they were last reported
	pending    bool // a timer is going to report them
}

func newEvents(log *slog.Logger, rt Runtime, suppressed prometheus.Counter) *events {
	return &events{
		log:     log,
		clock:   rt.Clock,
		quiet:   !log.Enabled(context.Background(), slog.LevelError),
		dropped: suppressed,
		mu:      rt.NewLock("events"),
		allow:   rate.NewLimiter(logRate, logRate),
	}
}

// emit writes one record, unless the log does not take records of that level
// or there have been too many.
func (e *events) emit(level slog.Level, event string, attrs ...slog.Attr) {
	if e.quiet || !e.log.Enabled(context.Background(), level) {
		return
	}
	if e.admit() {
		e.log.LogAttrs(context.Background(), level, event, attrs...)
	}
}

// admit reports whether a record may be written now. If not, it counts the
// record, and sees to it that the number is reported after suppressedEvery.
func (e *events) admit() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.allow.AllowN(e.clock.Now(), 1) {
		return true
	}
	e.dropped.Inc()
	e.suppressed++
	if !e.pending {
		e.pending = true
		e.clock.AfterFunc(suppressedEvery, e.report)
	}
	return false
}

// report is the end of the time that admit began.
func (e *events) report() {
	e.mu.Lock()
	e.pending = false
	e.mu.Unlock()
	e.flush()
}

// flush logs how many records were suppressed since that was last logged, if
// any were. Call it when the relay ends, too.
func (e *events) flush() {
	e.mu.Lock()
	n := e.suppressed
	e.suppressed = 0
	e.mu.Unlock()
	if n > 0 {
		e.log.Warn("log_records_suppressed", "count", n)
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
	e.emit(slog.LevelWarn, event, attrs...)
}

func (e *events) serverClaimed(b *binary) {
	e.emit(slog.LevelInfo, "server_claimed", serverID(b.server), remote(b.from), slog.String("binary_version", b.version))
}

func (e *events) serverConflict(b *binary) {
	e.emit(slog.LevelWarn, "server_id_conflict", serverID(b.server), remote(b.from))
}

func (e *events) serverTakeover(b *binary) {
	e.emit(slog.LevelWarn, "server_id_takeover", serverID(b.server), remote(b.from))
}

func (e *events) serverReleased(b *binary, code wire.CloseCode, reason string) {
	e.ended(reason, serverID(b.server), remote(b.from))
	e.emit(slog.LevelInfo, "server_released", append(ending(&b.conn, code, reason), serverID(b.server), remote(b.from), e.since(b.began))...)
}

func (e *events) graceExpired(id wire.ServerID) {
	e.emit(slog.LevelInfo, "server_grace_expired", serverID(id))
}

func (e *events) phoneRegistered(p *phone, device string) {
	e.emit(slog.LevelInfo, "phone_registered", serverID(p.server), connID(p.id), remote(p.from), slog.String("device_name", device))
}

func (e *events) phoneCarried(h wire.PhoneHello, from netip.Addr) {
	e.emit(slog.LevelInfo, "phone_carried", serverID(h.Server), remote(from), slog.String("device_name", h.Device))
}

func (e *events) phoneRefused(p *phone, event, device string) {
	e.emit(slog.LevelInfo, event, serverID(p.server), remote(p.from), slog.String("device_name", device))
}

func (e *events) phoneUnregistered(p *phone, code wire.CloseCode, reason string) {
	e.ended(reason, serverID(p.server), connID(p.id), remote(p.from))
	e.emit(slog.LevelInfo, "phone_unregistered", append(ending(&p.conn, code, reason), serverID(p.server), connID(p.id), remote(p.from), e.since(p.began))...)
}

// ended adds the record that a missed heartbeat deserves.
func (e *events) ended(reason string, attrs ...slog.Attr) {
	if reason == wire.ReasonHeartbeat {
		e.emit(slog.LevelInfo, "heartbeat_timeout", attrs...)
	}
}

func (e *events) noticeFailed(p *phone, why string) {
	e.emit(slog.LevelWarn, "phone_close_notice_send_failed", serverID(p.server), connID(p.id), slog.String("err", why))
}

func (e *events) envelopeDropped(b *binary, err string) {
	e.emit(slog.LevelWarn, "envelope_dropped", serverID(b.server), slog.String("err", err))
}

// envelopeDeparted is for an envelope that names a phone that has just left.
// Every daemon sends such ones.
func (e *events) envelopeDeparted(b *binary) {
	e.emit(slog.LevelDebug, "envelope_for_departed_phone", serverID(b.server))
}
