package daemon

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"runtime"
	"syscall"
	"time"
)

// Bounds of both HTTP servers. They hold until an upgrade is through; from
// then on the relay watches the connection itself.
const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 60 * time.Second
	writeTimeout   = 60 * time.Second
	idleTimeout    = 120 * time.Second
	maxHeaderBytes = 16 << 10
)

// keepAlive finds peers that vanished before the relay's heartbeat has begun
// to look for them. It is silent on a connection with heartbeats.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 10 * time.Second, Count: 3}

// userTimeout is how long what was sent may stay unacknowledged. Without it
// the kernel goes on for a quarter of an hour.
const userTimeout = 30 * time.Second

// ListenError says that an address could not be listened on.
type ListenError struct {
	Option  string
	Address string
	Err     error
}

// Error is one sentence, with what to do where that is known.
func (e *ListenError) Error() string {
	s := fmt.Sprintf("cannot listen on %s (--%s): %v", e.Address, e.Option, reason(e.Err))
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		s += "; end the program that uses it, or choose another port"
	case errors.Is(e.Err, syscall.EACCES):
		s += "; choose a port above 1023, or grant CAP_NET_BIND_SERVICE"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		s += "; this machine has no such address"
	}
	return s
}

// Unwrap returns the cause.
func (e *ListenError) Unwrap() error { return e.Err }

// reason is err without what net puts before it: the address is named.
func reason(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// listen opens one listener. Accepted sockets inherit its settings.
func listen(ctx context.Context, option, address string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive, Control: tuneSocket}
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, &ListenError{Option: option, Address: address, Err: err}
	}
	return ln, nil
}

// newServer makes an HTTP/1.1 server: WebSocket upgrades need nothing newer,
// and HTTP/2 would be one more way to make the server work for nothing.
func newServer(h http.Handler, errorLog *log.Logger) *http.Server {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return &http.Server{
		Handler:           behindFrames(h),
		Protocols:         p,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          errorLog,

		// "OPTIONS *" goes to the handler like every other request.
		DisableGeneralOptionsHandler: true,
	}
}

// unreadLinger is how long the server waits for content that nobody reads,
// after the answer. To close with unread bytes resets the connection, which can
// destroy the answer on its way.
const unreadLinger = 500 * time.Millisecond

// closeUnread answers a request with content with "Connection: close", and
// ends its connection soon after the answer. It is for handlers that never
// read content. Without it net/http waits up to readTimeout for the content,
// and in most cases before it sends the answer.
func closeUnread(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
			// If the deadline cannot be set, that of the server stays.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unreadLinger))
		}
		h.ServeHTTP(w, r)
	})
}

// behindFrames lets whatever else is ready run before each request. Requests
// behind each other are there to be read at once, so a connection that has many
// would keep its processor for 10 ms, until the scheduler takes it away; a
// hundred such connections, and every frame waits for seconds.
func behindFrames(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		runtime.Gosched()
		h.ServeHTTP(w, r)
	})
}

// reachable reports whether address may be reached from other machines.
func reachable(address net.Addr) bool {
	a, ok := address.(*net.TCPAddr)
	return ok && !a.IP.IsLoopback()
}
