package push

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// DefaultEndpoint is where FCM is.
const DefaultEndpoint = "https://fcm.googleapis.com"

// wakeTime is how long a wake may take, a second attempt included. It holds
// one of few places meanwhile.
const wakeTime = 15 * time.Second

// logText is how many bytes of a server-id or a message id go into a record.
const logText = 128

// Config says how a Sender behaves.
type Config struct {
	// Endpoint is FCM's scheme and host. Empty means [DefaultEndpoint].
	Endpoint string

	// Log gets one record for each admitted wake.
	Log *slog.Logger

	// Transport makes the requests. Nil means one of its own, with the proxy
	// that the environment names.
	Transport http.RoundTripper
}

// Sender sends wakes. It is a collector of metrics, too. Its methods may be
// called from any goroutine.
type Sender struct {
	log     *slog.Logger
	metrics *metrics

	endpoint string
	client   *http.Client
	fcm      atomic.Pointer[fcm] // nil: push is off

	base      context.Context // of every wake
	cancel    context.CancelFunc
	admission admission
}

// New makes a Sender that is off: nothing is admitted before [Sender.Use].
func New(cfg Config) *Sender {
	m := newMetrics()
	s := &Sender{log: cfg.Log, metrics: m, endpoint: cfg.Endpoint, client: newClient(cfg.Transport), admission: admission{shown: m.inFlight.Set}}
	s.base, s.cancel = context.WithCancel(context.Background())
	return s
}

// Use says with which account wakes are sent that come from now on; nil: none
// are. Those that are on their way go on with the one that they began with.
// It reports whether that is another than before. Only one goroutine at a
// time may call it.
func (s *Sender) Use(c *Credentials) (changed bool) {
	var before *Credentials
	if f := s.fcm.Load(); f != nil {
		before = f.credentials
	}
	switch {
	case c.equal(before):
		return false // and the access token stays
	case c == nil:
		s.fcm.Store(nil)
	default:
		s.fcm.Store(newFCM(c, s.endpoint, s.client))
	}
	return true
}

// Project is the id of the Firebase project that wakes are sent to; empty if
// push is off.
func (s *Sender) Project() string {
	if f := s.fcm.Load(); f != nil {
		return f.credentials.project
	}
	return ""
}

// Wake admits a wake that a binary at from asks for at once, and then sends it in the
// background, or says why not: [ErrOff], [ErrMalformed], [ErrRate], [ErrInFlight] or
// [ErrShutdown]. Either way the wake is counted. It never waits.
func (s *Sender) Wake(from netip.Addr, id wire.ServerID, w wire.PushWake) error {
	f := s.fcm.Load()
	if err := s.admit(f, from, id, w); err != nil {
		s.metrics.wakes[refusals[err]].Inc()
		return err
	}
	go s.send(f, from, id, w.Token)
	return nil
}

func (s *Sender) admit(f *fcm, from netip.Addr, id wire.ServerID, w wire.PushWake) error {
	switch {
	case !w.Usable():
		return ErrMalformed
	case f == nil:
		return ErrOff
	}
	return s.admission.enter(from, id, time.Now())
}

// send sends an admitted wake and tells how that ended.
func (s *Sender) send(f *fcm, from netip.Addr, id wire.ServerID, token string) {
	defer s.admission.leave(from)
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.base, wakeTime)
	defer cancel()
	message, fail := f.deliver(ctx, token)

	took := time.Since(began)
	attrs := []slog.Attr{
		slog.String("server_id", wire.Printable(string(id), logText)),
		slog.String("token_fp", fingerprint(token)),
		slog.Duration("duration", took),
	}
	s.metrics.duration.Observe(took.Seconds())
	if fail != nil {
		s.log.LogAttrs(context.Background(), slog.LevelWarn, "push_wake_send_failed", append(attrs, slog.String("err", fail.text))...)
		s.metrics.wakes[fail.outcome].Inc()
		return
	}
	s.log.LogAttrs(context.Background(), slog.LevelInfo, "push_wake_sent", append(attrs, slog.String("fcm_message_id", wire.Printable(message, logText)))...)
	s.metrics.wakes[sent].Inc()
}

// fingerprint tells one token from another in a log, and is none.
func fingerprint(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:4])
}

// Drain admits nothing from now on and returns when every wake that was
// admitted has ended and been told. When ctx ends, those that are left are
// cancelled.
func (s *Sender) Drain(ctx context.Context) {
	s.admission.close()
	stop := context.AfterFunc(ctx, s.cancel)
	s.admission.wakes.Wait()
	stop()
	s.cancel()
	s.client.CloseIdleConnections()
}
