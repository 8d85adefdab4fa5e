package clustertest

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Wires connects nodes of one process: a cluster.Network for each, over TCP on loopback
// without TLS.
type Wires struct {
	mu  sync.Mutex // guards all below
	all []*Wire
}

// Wire is one node's cluster.Network. While it is down, its connections end, and it gets no
// new ones.
type Wire struct {
	wires *Wires
	ln    net.Listener

	mu    sync.Mutex // guards all below
	down  bool
	socks []*wireSocket
}

var _ cluster.Network = (*Wire)(nil)

// Wire returns the network of one more node.
func (w *Wires) Wire() *Wire {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // loopback always has a port
	}
	n := &Wire{wires: w, ln: ln}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, n)
	return n
}

// Close ends all networks.
func (w *Wires) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.all {
		n.Down(true)
		_ = n.ln.Close() // nothing uses it any more
	}
}

// Address implements cluster.Network.
func (w *Wire) Address() string { return w.ln.Addr().String() }

// Dial implements cluster.Network.
func (w *Wire) Dial(address string, then func(relay.Socket, error)) {
	go func() {
		c, err := net.Dial("tcp", address)
		if err != nil {
			then(nil, err)
			return
		}
		s := w.add(c)
		if s == nil {
			then(nil, errDown)
			return
		}
		then(s, nil)
	}()
}

// Listen implements cluster.Network.
func (w *Wire) Listen(accept func(relay.Socket)) {
	go func() {
		for {
			c, err := w.ln.Accept()
			if err != nil {
				return
			}
			if s := w.add(c); s != nil {
				accept(s)
			}
		}
	}()
}

var errDown = errors.New("the wire is down")

// add returns a socket of c, or nil if w is down.
func (w *Wire) add(c net.Conn) relay.Socket {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		_ = c.Close() // the far end reads the end
		return nil
	}
	s := &wireSocket{Socket: relay.NewSocket(c)}
	w.socks = append(w.socks, s)
	return s
}

// Down cuts all connections, or lets new ones begin.
func (w *Wire) Down(yes bool) {
	w.mu.Lock()
	w.down = yes
	var cut []*wireSocket
	if yes {
		cut = slices.Clone(w.socks)
		w.socks = nil
	}
	w.mu.Unlock()
	for _, s := range cut {
		s.cut()
	}
}

// wireSocket is one end of a connection that Down can cut.
type wireSocket struct {
	relay.Socket

	mu      sync.Mutex // guards all below
	watcher relay.Watcher
	ended   bool
}

// Start implements relay.Socket.
func (s *wireSocket) Start(w relay.Watcher) {
	s.mu.Lock()
	s.watcher = w
	s.mu.Unlock()
	s.Socket.Start(w)
}

// TryRead implements relay.Socket.
func (s *wireSocket) TryRead(p []byte) (int, bool, error) {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended {
		return 0, false, io.EOF
	}
	return s.Socket.TryRead(p)
}

func (s *wireSocket) cut() {
	s.mu.Lock()
	s.ended = true
	w := s.watcher
	s.mu.Unlock()
	_ = s.Socket.Close() // it may have ended already
	if w != nil {
		var t relay.Turn
		w.Ready(&t, true, false)
		t.Finish()
	}
}
