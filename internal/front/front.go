package front

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Config configures a [Front].
type Config struct {
	// Runtime supplies time, locks and gates of the limits on connections. The zero
	// value uses those of the process.
	Runtime relay.Runtime

	Log     *slog.Logger
	Metrics prometheus.Registerer

	// ErrorLog returns the log for the errors of the HTTP server of that name.
	ErrorLog func(server string) *log.Logger

	// Handler serves the requests of the public listener. It reads no content.
	Handler http.Handler

	Limits Limits // the first ones

	// Handshakes is the number of TLS handshakes that may compute at a time. Zero
	// means half the processors, and at least one.
	Handshakes int

	// ProxyProtocol expects a PROXY header on each public connection.
	ProxyProtocol bool

	// TLSCert and TLSKey are the files of a certificate. Empty: no such files.
	TLSCert, TLSKey string

	// Domain is the name that a certificate is asked for, of the authority
	// ACMEDirectory. Empty: no authority. ACMEDir must be a directory of this user's.
	Domain, ACMEDir, ACMEEmail, ACMEDirectory string

	// Challenges demands a server for the challenges of the authority.
	Challenges bool

	// ACME talks to the authority. Nil: the usual client.
	ACME *http.Client
}

// Limits are the settings that may change while the process runs.
type Limits struct {
	Pending           int             // connections that are not upgraded
	PendingPerAddress int             // of those, connections of one address
	Trusted           config.Networks // the trusted proxies, which have no limit on their connections
}

// Front has the public listeners of the process, and the parts that the private listener
// shares with them. Its methods may be called from any goroutine.
type Front struct {
	Server     *http.Server // for public listeners
	Challenges *http.Server // for listeners of ACME challenges; nil: there are none

	pending   *pending
	operators *pending     // of the private listener
	certs     certificates // nil: no TLS
	trusted   atomic.Pointer[config.Networks]

	proxyProtocol bool
}

// New returns a Front that does not listen yet. It reads the certificate's files.
func New(c Config) (*Front, error) {
	f := &Front{proxyProtocol: c.ProxyProtocol}
	var err error
	if f.pending, err = newPending(c.Runtime, c.Limits, cmp.Or(c.Handshakes, handshakesAtATime()), c.Metrics); err != nil {
		return nil, err
	}
	f.operators = f.pending.operators()
	f.trusted.Store(&c.Limits.Trusted)
	if err := f.useTLS(c); err != nil {
		return nil, err
	}
	handler := c.Handler
	if f.certs != nil {
		handler = onlyFor(f.certs.serves, handler)
	}
	f.Server = f.server(handler, c.ErrorLog("public"))
	return f, nil
}

// server makes a server with one request on each connection: an upgrade, or one that
// ends its connection. Otherwise a connection could stay for ever without an upgrade.
func (f *Front) server(h http.Handler, errorLog *log.Logger) *http.Server {
	s := NewServer(closeUnread(h), errorLog)
	s.MaxHeaderBytes = maxHeaderBytes
	s.SetKeepAlivesEnabled(false)
	s.ConnState = f.pending.state
	s.ConnContext = withConn
	return s
}

// withConn is [http.Server.ConnContext].
func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, connOf(nc))
}

// Waits records that the public request with this context begins to wait for other nodes.
// The relay must have counted its connection among those that it has upgraded. Until its end the
// connection then takes no place of Limits.Pending, and gives way to newcomers of its own address
// only.
func (f *Front) Waits(ctx context.Context) {
	if c, _ := ctx.Value(connKey{}).(*conn); c != nil {
		f.pending.wait(c)
	}
}

// useTLS sets up TLS of the public listener, if c has it.
func (f *Front) useTLS(c Config) error {
	cert, err := newCertificate(c.Metrics, c.Log)
	if err != nil {
		return err
	}
	switch {
	case c.TLSCert != "":
		files := &fileCerts{certificate: cert, certFile: c.TLSCert, keyFile: c.TLSKey}
		f.certs = files
		return files.load()
	case c.Domain != "":
		a := newACME(c, cert)
		f.certs = a
		if c.Challenges {
			f.Challenges = f.server(a.challenges(), c.ErrorLog("http"))
		}
	}
	return nil
}

// Set puts l into force. It closes no connection.
func (f *Front) Set(l Limits) {
	f.pending.set(l)
	f.trusted.Store(&l.Trusted)
}

// ShedLoad cuts connections that have not been upgraded until about so many bytes of memory
// are free, those of the network that holds the most first. It returns the number of bytes,
// which are free at the next garbage collection. It spares connections that hold little.
func (f *Front) ShedLoad(bytes int) (freed int) {
	return f.pending.shed(func(int) int { return bytes })
}

// ShedTo is ShedLoad until such connections hold at most that number of bytes.
func (f *Front) ShedTo(bytes int) (freed int) {
	return f.pending.shed(func(held int) int { return held - bytes })
}

// ClientAddr returns the address that a request is charged to. It uses X-Forwarded-For of
// trusted proxies.
func (f *Front) ClientAddr(req *http.Request) netip.Addr { return clientAddr(*f.trusted.Load(), req) }

// HasTLS reports whether public listeners have TLS.
func (f *Front) HasTLS() bool { return f.certs != nil }

// ReadsFiles reports whether the certificate comes from files, which
// [Front.KeepCertificate] reads again.
func (f *Front) ReadsFiles() bool {
	_, ok := f.certs.(*fileCerts)
	return ok
}

// KeepCertificate renews the certificate, or reads its files again, until ctx ends.
// A value from reload makes it do so immediately. It may be in the middle of a
// request or of a file when ctx ends, so nothing should wait for its return.
func (f *Front) KeepCertificate(ctx context.Context, reload <-chan os.Signal) {
	if f.certs != nil {
		f.certs.keep(ctx, reload)
	}
}

// Guard returns a public listener with everything that comes before HTTP: PROXY headers, the
// limits on connections, and TLS. All public listeners share the limit on handshakes.
func (f *Front) Guard(ln net.Listener) net.Listener {
	if f.proxyProtocol {
		ln = &proxyHeaders{Listener: ln, trusted: func() config.Networks { return *f.trusted.Load() }, refused: func(net.Addr) {
			f.pending.cut.WithLabelValues(cutProxy).Inc()
		}, broken: func(from net.Addr, err error) {
			f.pending.cut.WithLabelValues(cutHeader).Inc()
			f.Server.ErrorLog.Printf("trusted proxy %s: %v; does it speak PROXY to this port?", from, err)
		}}
	}
	ln = &limitingListener{Listener: ln, pending: f.pending}
	if f.certs == nil {
		return ln
	}
	return &tlsListener{ln, f.certs.config(), f.pending.cut.WithLabelValues(cutUndelivered)}
}

// GuardChallenges returns a listener for ACME challenges that shares the limits on connections
// with the public listeners.
func (f *Front) GuardChallenges(ln net.Listener) net.Listener {
	return &limitingListener{Listener: ln, pending: f.pending}
}

// GuardPrivate limits the connections of the private listener. The server on it
// must be one of [Front.PrivateServer].
func (f *Front) GuardPrivate(ln net.Listener) net.Listener {
	return &limitingListener{Listener: ln, pending: f.operators}
}

// PrivateServer returns the server of the private listener. A caller that replaces its
// ConnContext must call the old one.
func (f *Front) PrivateServer(h http.Handler, errorLog *log.Logger) *http.Server {
	s := NewServer(f.readFirst(h), errorLog)
	s.ConnState = f.PrivateState
	s.ConnContext = withConn
	return s
}

// PrivateState is [http.Server.ConnState] of the private listener's server.
func (f *Front) PrivateState(c net.Conn, s http.ConnState) { f.operators.state(c, s) }

// PrivateAnswering records that the request on a connection of the private listener has been
// read and is being answered, or that it has been answered. Between the two the connection
// gives way to no other one.
func (f *Front) PrivateAnswering(nc net.Conn, busy bool) {
	if c := connOf(nc); c != nil {
		f.operators.answering(c, busy)
	}
}

// connKey is the key of the *conn of a request, in its context.
type connKey struct{}

// Bounds of the content of a request to the private listener. Handlers read no more of it.
const (
	contentTimeout = 3 * time.Second
	contentBytes   = 8 << 10
)

// readFirst reads the content of each request before it calls next. Until the content has
// come, the connection gives way to others, so that clients which send it slowly do not keep
// operators out.
func (f *Front) readFirst(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
			rc := http.NewResponseController(w)
			_ = rc.SetReadDeadline(time.Now().Add(contentTimeout)) // else that of the server stays
			content, err := io.ReadAll(io.LimitReader(r.Body, contentBytes))
			if err != nil {
				w.Header().Set("Connection", "close")
				http.Error(w, fmt.Sprintf("content: has not come within %s", contentTimeout), http.StatusRequestTimeout)
				return
			}
			_ = rc.SetReadDeadline(time.Time{})
			r.Body = io.NopCloser(bytes.NewReader(content))
		}
		if c, _ := r.Context().Value(connKey{}).(*conn); c != nil {
			f.operators.answering(c, true)
			defer f.operators.answering(c, false)
		}
		next.ServeHTTP(w, r)
	})
}
