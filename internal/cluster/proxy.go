package cluster

import (
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// lastWrite is how long a phone may take for what came for it before the far
// end was done. Until then that one sees to phones that do not read.
const lastWrite = 10 * time.Second

// reasonBroken is the reason of a close because the way to the slot broke.
const reasonBroken = "the way to the node that serves the server-id broke"

// proxy is the end at the node that has the phone's socket: it carries
// bytes and looks at none, but to know whether a message has begun.
type proxy struct {
	*stream
	sock  relay.Socket
	ended func()

	// Guarded by the stream's lock.
	started bool // Carry has been called
	writing bool // somebody drains; walk is theirs
	frames  wire.FrameTracker
	leaving bool // the phone is to go, with the close message last
	code    wire.CloseCode
	reason  string
	toldEnd bool // the phone has been told that no more bytes come
	parted  bool // nothing more is to be done but to see the socket end
	gone    bool // the socket is closed
	linger  *clock.Timer

	lingering bool // linger is that of the close
}

// newProxy makes one and enters its stream; nil if the node closes.
func (n *Node) newProxy(owner NodeID) *proxy {
	c := &proxy{stream: n.newStream(owner, n.streamID())}
	c.edge, c.stream.input = true, c.input
	if !n.join(c.stream) {
		return nil
	}
	return c
}

// Carry implements relay.Stream.
func (c *proxy) Carry(sock relay.Socket, ended func()) {
	c.sock, c.ended = sock, ended
	c.mu.Lock()
	c.started = true
	c.watch(idleAsk)
	c.mu.Unlock()
	c.node.rt.Go("carrier", c.up)
	c.input() // what came before
}

// Close implements relay.Stream.
func (c *proxy) Close(code wire.CloseCode, reason string) {
	c.leave(code, reason)
	c.input()
}

// leave has the phone closed with code, behind what came for it.
func (c *proxy) leave(code wire.CloseCode, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving {
		return
	}
	c.leaving, c.code, c.reason = true, code, reason
	c.lingers()
}

// lingers ends the socket in a while. The lock is held.
func (c *proxy) lingers() {
	if c.lingering || c.gone {
		return
	}
	c.lingering = true
	if c.linger != nil {
		c.linger.Stop()
	}
	c.linger = c.node.rt.Clock.AfterFunc(c.node.cfg.Linger, c.Abort)
}

// Abort implements relay.Stream.
func (c *proxy) Abort() {
	c.mu.Lock()
	was := c.gone
	c.gone = true
	if c.linger != nil {
		c.linger.Stop()
	}
	c.mu.Unlock()
	if was {
		return
	}
	c.end(kindClose)
	_ = c.sock.Close() // what would an error tell?
	c.ended()
}

// up carries what the phone sends. Once there is nowhere to carry it to it
// is still read: closing with something unread would destroy what is on its
// way to the phone.
func (c *proxy) up() {
	for {
		b, n, err := c.sock.Read()
		if err != nil {
			break
		}
		if k, err := c.write(b[:n]); err == nil && k < n {
			c.pin(len(b))
			_, _ = c.writeAll(b[k:n]) // broken: whoever broke it ends the phone
			c.pin(0)
		}
		b.Free()
	}
	_ = c.finish() // the same
	c.mu.Lock()
	over := c.over || c.closed || c.leaving || c.broken != ""
	c.mu.Unlock()
	if over {
		c.Abort() // nobody waits for it any more
	}
}

// pin notes that a buffer of n bytes waits for credit.
func (c *proxy) pin(n int) {
	c.mu.Lock()
	c.pinned = n
	c.holds()
	c.mu.Unlock()
}

// input sees to what has changed: there are bytes to write, or an end.
func (c *proxy) input() {
	c.mu.Lock()
	if c.started && c.writing && !c.gone && c.linger == nil && (c.closed || c.broken != "") {
		c.linger = c.node.rt.Clock.AfterFunc(lastWrite, c.Abort) // the far end does not watch it any more
	}
	start := c.started && !c.writing && !c.gone && c.due()
	c.writing = c.writing || start
	c.mu.Unlock()
	if start {
		c.node.rt.Go("down", c.drain)
	}
}

// due reports whether there is something to do for drain. The lock is held.
func (c *proxy) due() bool {
	return len(c.queue) > 0 || c.fin && !c.toldEnd || !c.parted && (c.closed || c.broken != "" || c.leaving)
}

// drain writes to the phone what has come for it, waiting for its socket.
func (c *proxy) drain() {
	for {
		c.mu.Lock()
		c.inWrite = 0
		if c.gone || !c.due() {
			c.writing = false
			c.holds()
			c.mu.Unlock()
			return
		}
		bytes := c.queue
		c.queue, c.queueCap, c.inWrite = nil, 0, cap(c.queue)
		c.holds()
		if len(bytes) == 0 {
			last := c.last()
			c.mu.Unlock()
			last()
			continue
		}
		c.mu.Unlock()
		n, err := c.sock.Write(bytes)
		c.frames.Skip(bytes[:n])
		c.consume(n)
		if err != nil {
			c.Abort()
		}
	}
}

// last is what there is to do when all has been written. The lock is held;
// what it returns is called without.
func (c *proxy) last() func() {
	half := func() { _ = c.sock.CloseWrite() }
	switch {
	case c.fin && !c.toldEnd:
		c.toldEnd = true
		return half
	case c.closed && c.broken == "" && c.toldEnd:
		c.parted = true
		return c.Abort // the far end has waited for the phone to see it
	case c.closed && c.broken == "":
		c.parted = true
		c.lingers() // cut at the far end: what it sent just before should arrive
		return half
	}
	c.parted = true
	code, reason := c.code, c.reason
	if !c.leaving {
		code, reason = wire.CloseRestart, reasonBroken
	}
	c.leaving = true
	c.lingers()
	whole := c.frames.Whole() && !c.toldEnd
	return func() {
		c.end(kindClose)
		if !whole {
			c.Abort() // inside a message a close would be taken for its rest
			return
		}
		if _, err := c.sock.Write(wire.AppendClose(nil, code, reason)); err != nil {
			c.Abort()
			return
		}
		half()
	}
}
