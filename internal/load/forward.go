package load

import (
	"net"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// Link is the state of a Forwarder.
type Link int

const (
	LinkUp      Link = iota
	LinkStalled      // no bytes move and connections stay open, as with packet loss
	LinkCut          // connections are reset and refused
	LinkSlow         // what was read in one step leaves slowLink later
)

const slowLink = 100 * time.Millisecond

// Forwarder copies bytes between each connection that it accepts and one other
// connection. Package bench has a byte copier of its own, because that one is
// measured and must not look at the state of a link for each read.
type Forwarder struct {
	ln   net.Listener
	dial func(near net.Conn) (far net.Conn, err error)

	mu      sync.Mutex // guards all below
	changed sync.Cond
	link    Link
	closed  bool
	conns   map[net.Conn]struct{}

	tasks sync.WaitGroup
}

// Forward serves ln until Close is called. For each accepted connection it calls
// dial, which returns the other connection. If dial returns an error, the accepted
// connection is closed; dial can write an answer to it before.
func Forward(ln net.Listener, dial func(near net.Conn) (far net.Conn, err error)) *Forwarder {
	f := &Forwarder{ln: ln, dial: dial, conns: make(map[net.Conn]struct{})}
	f.changed.L = &f.mu
	f.tasks.Go(f.accept)
	return f
}

// Addr returns the address that the forwarder listens on.
func (f *Forwarder) Addr() string { return f.ln.Addr().String() }

func (f *Forwarder) accept() {
	for {
		near, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.tasks.Go(func() { f.join(near) })
	}
}

// join connects near to its other connection and copies bytes until either ends.
func (f *Forwarder) join(near net.Conn) {
	if !f.enter(near) {
		return
	}
	far, err := f.dial(near)
	if err != nil || !f.enter(far) {
		f.leave(near)
		return
	}
	f.tasks.Go(func() { f.copy(far, near) })
	f.copy(near, far)
}

// enter registers c and waits while the link is stalled. If the link is cut or the
// forwarder closed, it resets c and returns false.
func (f *Forwarder) enter(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[c] = struct{}{}
	f.waitStalled()
	if f.link == LinkCut || f.closed {
		wstest.Reset(c)
		delete(f.conns, c)
		return false
	}
	return true
}

// waitStalled waits while the link is stalled. The caller holds f.mu.
func (f *Forwarder) waitStalled() {
	for f.link == LinkStalled && !f.closed {
		f.changed.Wait()
	}
}

func (f *Forwarder) leave(c net.Conn) {
	c.Close()
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
}

func (f *Forwarder) copy(to, from net.Conn) {
	defer f.leave(from)
	defer f.leave(to)
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		f.mu.Lock()
		f.waitStalled()
		slow := f.link == LinkSlow
		f.mu.Unlock()
		if err != nil {
			return
		}
		if slow {
			time.Sleep(slowLink)
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// Set changes the state for new and for existing connections.
func (f *Forwarder) Set(l Link) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.link = l
	if l == LinkCut {
		for c := range f.conns {
			wstest.Reset(c)
		}
	}
	f.changed.Broadcast()
}

// Close closes the listener and all connections, and waits for their goroutines.
func (f *Forwarder) Close() {
	f.ln.Close()
	f.mu.Lock()
	f.closed = true
	for c := range f.conns {
		c.Close()
	}
	f.changed.Broadcast()
	f.mu.Unlock()
	f.tasks.Wait()
}
