package load

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// Sizes of the buffers that peers read into. A busy peer reads many frames with
// one system call. Idle peers are numerous, so that each gets a small buffer.
const (
	BusyBuffer  = 64 << 10
	SmallBuffer = 4 << 10
	IdleBuffer  = 512
)

// Target is a relay with the parameters for dialling it.
type Target struct {
	Addr    string // host:port
	Raw     bool   // no WebSocket handshake: the other end copies bytes
	TLS     *tls.Config
	Buffer  int // size of each peer's read buffer
	Timeout time.Duration
	Phones  *Target // where phones connect; nil: at this target
	Sources *Target // chooses the source addresses; nil: this target

	// Observe, if not nil, is called before each dial. Dial calls the function that it
	// returns with the result: the connection, or nil if the dial failed, and the answer.
	Observe func(path, server string) (dialled func(c *wstest.Conn, answer *http.Response))

	dialled atomic.Int64 // spreads loopback connections over source addresses
}

// perAddress is the number of connections from each loopback source address. A
// relay limits upgrades and connections per address. All addresses of 127/8 are
// available as source addresses.
const perAddress = 100

// from returns the next source address, or nil to let the system choose.
func (t *Target) from() net.Addr {
	if t.Sources != nil {
		return t.Sources.from()
	}
	host, _, _ := net.SplitHostPort(t.Addr)
	if ip := net.ParseIP(host); ip == nil || ip.To4() == nil || !ip.IsLoopback() {
		return nil
	}
	n := t.dialled.Add(1)/perAddress + 1<<16
	return &net.TCPAddr{IP: net.IPv4(127, byte(n>>16), byte(n>>8), byte(n))}
}

// Dial opens a connection to path, /v1/server or /v1/client, for a server-id.
func (t *Target) Dial(path, server string) (*wstest.Conn, error) {
	connect := func(network, address string) (net.Conn, error) {
		d := net.Dialer{Timeout: t.Timeout, LocalAddr: t.from(), KeepAlive: -1}
		conn, err := d.Dial(network, address)
		if err != nil {
			return nil, err
		}
		return Quick(conn), nil
	}
	if t.Raw {
		conn, err := connect("tcp", t.Addr)
		if err != nil {
			return nil, err
		}
		if t.TLS != nil {
			conn = tls.Client(conn, t.TLS)
		}
		return wstest.NewConn(conn, nil, t.Buffer), nil
	}
	scheme := "ws://"
	if t.TLS != nil {
		scheme = "wss://"
	}
	d := wstest.Dialer{Timeout: t.Timeout, Connect: connect, TLS: t.TLS, Buffer: t.Buffer}
	dialled := func(*wstest.Conn, *http.Response) {}
	if t.Observe != nil {
		dialled = t.Observe(path, server)
	}
	conn, answer, err := d.Dial(scheme+t.Addr+path, http.Header{"User-Agent": {"relayload"}, "X-Pyrycode-Server": {server}, "X-Pyrycode-Version": {"relayload"}})
	dialled(conn, answer)
	return conn, err
}

// Binary dials as the binary of a server-id.
func (t *Target) Binary(server string) (*Binary, error) {
	c, err := t.Dial("/v1/server", server)
	if err != nil {
		return nil, err
	}
	return &Binary{Conn: c, ids: make(map[int]string)}, nil
}

// EchoServer starts a server on loopback that sends back all bytes that it
// receives, with TLS if config is not nil. A Raw target is a byte copier in front of
// it. The caller closes it.
func EchoServer(config *tls.Config) (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if conn = Quick(conn); config != nil {
				conn = tls.Server(conn, config)
			}
			go func() {
				defer conn.Close()
				b := make([]byte, 64<<10)
				for {
					n, err := conn.Read(b)
					if err == nil {
						_, err = conn.Write(b[:n])
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln, nil
}
