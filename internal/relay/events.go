package relay

import (
	"context"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// logRate bounds the records that peers can cause, per second and after a
// burst of as many. What is over is counted and said in one record as soon
// as there is room again.
const logRate = 100

// logText is how many bytes of something a peer chose go into a record.
const logText = 128

// events writes the relay's log. Its event names and keys are a closed set,
// held by a test: no payload, no token, no user-agent ever.
type events struct {
	log   *slog.Logger
	now   func() time.Time
	quiet bool // nobody listens

	mu         sync.Locker // guards all below
	allow      *rate.Limiter
	suppressed int
}

func newEvents(log *slog.Logger, rt Runtime) events {
	return events{
		log:   log,
		now:   rt.Clock.Now,
		quiet: !log.Enabled(context.Background(), slog.LevelError),
		mu:    rt.NewLock("events"),
		allow: rate.NewLimiter(logRate, logRate),
	}
}

// emit writes one record unless there have been too many.
func (e *events) emit(level slog.Level, event string, attrs ...slog.Attr) {
	if e.quiet {
		return
	}
	e.mu.Lock()
	if !e.allow.AllowN(e.now(), 1) {
		e.suppressed++
		e.mu.Unlock()
		return
	}
	missed := e.suppressed
	e.suppressed = 0
	e.mu.Unlock()
	if missed > 0 {
		e.log.Warn("log_records_suppressed", "err", strconv.Itoa(missed)+" records left out")
	}
	e.log.LogAttrs(context.Background(), level, event, attrs...)
}

func serverID(id wire.ServerID) slog.Attr {
	return slog.String("server_id", wire.Printable(string(id), logText))
}

func connID(id wire.ConnID) slog.Attr      { return slog.String("conn_id", string(id)) }
func remote(a netip.Addr) slog.Attr        { return slog.String("remote", a.String()) }
func closeCode(c wire.CloseCode) slog.Attr { return slog.Int("close_code", int(c)) }

func (e *events) since(began time.Time) slog.Attr {
	return slog.Duration("duration", e.now().Sub(began))
}

// ending is why a connection ended, in the keys that there are for it.
func ending(code wire.CloseCode, reason string) []slog.Attr {
	attrs := []slog.Attr{closeCode(code)}
	if reason != "" {
		attrs = append(attrs, slog.String("err", reason))
	}
	return attrs
}

func (e *events) refused(event string, from netip.Addr, d door, err error) {
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
	e.emit(slog.LevelInfo, "server_released", append(ending(code, reason), serverID(b.server), remote(b.from), e.since(b.began))...)
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
	e.emit(slog.LevelInfo, "phone_unregistered", append(ending(code, reason), serverID(p.server), connID(p.id), remote(p.from), e.since(p.began))...)
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
