package front

import (
	"context"
	"errors"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/sched"
)

// Bounds of both HTTP servers. They hold until an upgrade is complete. After it the relay
// watches the connection itself.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 60 * time.Second
	writeTimeout  = 60 * time.Second
	idleTimeout   = 120 * time.Second
)

// Bounds of a request's header. net/http adds headerSlop to each.
//
// The header of a public request has at most 6 KiB in all. An upgrade of a client has less
// than 2, and the rest is for headers that proxies add. net/http needs up to 20 times as
// much memory for a header of many short fields.
//
// A request at the private listener may come from a browser with the cookies of other
// programs.
const (
	maxHeaderBytes      = 2 << 10
	operatorHeaderBytes = 16 << 10
	headerSlop          = 4 << 10
)

// keepAlive finds peers that vanish before the relay's heartbeat begins. On a connection with
// heartbeats it sends nothing.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 10 * time.Second, Count: 3}

// userTimeout is the longest time for which sent bytes may stay unacknowledged. Without it the
// kernel retries for a quarter of an hour.
const userTimeout = 30 * time.Second

// Listen opens one listener: at host:port, or a Unix socket at unix:PATH. Accepted
// sockets inherit its settings.
func Listen(ctx context.Context, option, address string) (net.Listener, error) {
	var ln net.Listener
	var err error
	if path, ok := config.UnixPath(address); ok {
		ln, err = listenUnix(ctx, path)
	} else {
		lc := net.ListenConfig{KeepAliveConfig: keepAlive, Control: tuneSocket}
		ln, err = lc.Listen(ctx, "tcp", address)
	}
	if err != nil {
		return nil, &config.ListenError{Option: option, Address: address, Err: err}
	}
	return ln, nil
}

// Adopt returns a socket that another process opened, as [Listen] would have opened it.
func Adopt(ln *net.TCPListener) net.Listener { return adopted{ln} }

// adopted is a socket of the supervisor. Its connections get the settings that those of Listen
// inherit.
type adopted struct{ *net.TCPListener }

// Accept waits for a connection.
func (l adopted) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	// The peer may have gone already; the first read returns that error.
	_ = c.SetKeepAliveConfig(keepAlive)
	if raw, err := c.SyscallConn(); err == nil {
		_ = tuneSocket("", "", raw)
	}
	return c, nil
}

// NewServer returns an HTTP/1.1 server with the bounds of the private listener. WebSocket
// upgrades need nothing newer, and HTTP/2 gives attackers one more way to cost processor time.
func NewServer(h http.Handler, errorLog *log.Logger) *http.Server {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return &http.Server{
		Handler:           behindFrames(h),
		Protocols:         p,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    operatorHeaderBytes,
		ErrorLog:          errorLog,

		// "OPTIONS *" goes to the handler like every other request.
		DisableGeneralOptionsHandler: true,
	}
}

// unreadLinger is how long the server waits for content that no handler reads,
// after the answer. To close with unread bytes resets the connection, which can
// destroy the answer on its way.
const unreadLinger = 500 * time.Millisecond

// closeUnread ends the connection of a request with content soon after the answer.
// It is for handlers that never read content, on servers without keep-alive. Without
// it net/http waits up to readTimeout for the content.
func closeUnread(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
			// If the deadline cannot be set, that of the server stays.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unreadLinger))
		}
		h.ServeHTTP(w, r)
	})
}

// behindFrames lets everything else that is ready run before each request. Pipelined requests
// can be read without waiting. A connection with many of them keeps its processor for 10 ms,
// until the scheduler preempts it, and with a hundred such connections every frame waits for
// seconds.
func behindFrames(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sched.Yield()
		h.ServeHTTP(w, r)
	})
}

// Reachable reports whether address may be reached from other machines.
func Reachable(address net.Addr) bool {
	a, ok := address.(*net.TCPAddr)
	return ok && !a.IP.IsLoopback()
}

// onlyFor answers 421 without content to requests for a host that this relay does not serve.
// They come from DNS that points here by mistake, or from a page that tries to reach the relay
// under a name of its own.
func onlyFor(serves func(host string) bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !serves(config.HostName(r.Host)) {
			w.WriteHeader(http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// socketMode lets the user and the group of the relay connect to its Unix socket. The
// permissions of the socket stand for a password.
const socketMode = 0o660

// staleTime is how long an old socket may take to show whether a process listens there.
const staleTime = time.Second

// errSocketInUse says that another process listens at a Unix socket.
var errSocketInUse = errors.New("another process listens there")

// listenUnix opens a Unix socket at path. It replaces a socket that a process has left
// behind that did not end properly.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		d := net.Dialer{Timeout: staleTime}
		c, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			c.Close()
			return nil, errSocketInUse
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			err = os.Remove(path)
		}
		if err != nil {
			return nil, err
		}
	}
	ln, err := bindUnix(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil { // the umask may have removed bits
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// bindUnix creates a socket at path with socketMode, or with fewer bits if the umask says
// so. Linux gives the file the mode of the descriptor, so that no client can connect
// between bind and a later chmod. Other systems do not, and have only the umask until then.
func bindUnix(ctx context.Context, path string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), socketMode) }); cerr != nil {
			return cerr
		}
		if runtime.GOOS != "linux" {
			return nil
		}
		return err
	}}
	return lc.Listen(ctx, "unix", path)
}
