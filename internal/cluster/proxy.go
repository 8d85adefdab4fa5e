package cluster

import (
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// lastWrite is the time in which a phone must read the bytes that are left when
// the far end has ended the stream. Before that the far end closes phones that do
// not read.
const lastWrite = 10 * time.Second

// reasonBroken is the reason of a close after the stream to the slot's node broke.
const reasonBroken = "the way to the node that serves the server-id broke"

// proxy is the end of a stream at the node with the phone's socket. It forwards
// bytes. It parses only as much as it needs to know whether a message is
// incomplete.
type proxy struct {
	*stream
	sock   relay.Socket
	onGone func() // the ended of Carry

	// Guarded by the stream's lock.
	started bool // Carry has been called
	writing bool // a task runs writeQueue, and frames belongs to it
	frames  wire.FrameTracker
	leaving bool // the phone is being closed, with the following code and reason
	code    wire.CloseCode
	reason  string
	toldEnd bool // the writing half of the socket is shut down
	ended   bool // all that remains is the end of the socket
	gone    bool // the socket is closed
	linger  *clock.Timer

	lingering bool // linger was set by lingers
}

// newProxy returns a proxy with a new stream to owner, which is in the node's map.
// It returns nil if the node is closed.
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
	c.sock, c.onGone = sock, ended
	c.mu.Lock()
	c.started = true
	c.watch(idleAsk)
	c.mu.Unlock()
	c.node.rt.Go("proxy", c.up)
	c.input() // for the bytes that came before Carry
}

// Close implements relay.Stream.
func (c *proxy) Close(code wire.CloseCode, reason string) {
	c.leave(code, reason)
	c.input()
}

// leave makes writeQueue close the phone with code, after the bytes that have
// come for it.
func (c *proxy) leave(code wire.CloseCode, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving {
		return
	}
	c.leaving, c.code, c.reason = true, code, reason
	c.lingers()
}

// lingers closes the socket after Config.Linger. c.mu is held.
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
	_ = c.sock.Close() // the socket is gone, with or without an error
	c.onGone()
}

// up is a task. It forwards the bytes from the phone. When the stream has ended,
// it goes on reading and discards the bytes: closing a socket with unread bytes
// destroys the bytes on their way to the phone.
func (c *proxy) up() {
	for {
		b, n, err := c.sock.Read()
		if err != nil {
			break
		}
		if k, err := c.write(b[:n]); err == nil && k < n {
			c.pin(len(b))
			_, _ = c.writeAll(b[k:n]) // after an error, input ends the phone
			c.pin(0)
		}
		c.node.rt.FreeBuffer(b)
	}
	_ = c.finish() // after an error, input ends the phone
	c.mu.Lock()
	over := c.over || c.closed || c.leaving || c.broken != ""
	c.mu.Unlock()
	if over {
		c.Abort() // the far end needs the socket no longer
	}
}

// pin records that a buffer of n bytes waits for credit.
func (c *proxy) pin(n int) {
	c.mu.Lock()
	c.pinned = n
	c.holds()
	c.mu.Unlock()
}

// input starts a task that runs writeQueue, if there is work and no task runs it.
func (c *proxy) input() {
	c.mu.Lock()
	if c.started && c.writing && !c.gone && c.linger == nil && (c.closed || c.broken != "") {
		c.linger = c.node.rt.Clock.AfterFunc(lastWrite, c.Abort) // the far end no longer watches the phone
	}
	start := c.started && !c.writing && !c.gone && c.due()
	c.writing = c.writing || start
	c.mu.Unlock()
	if start {
		c.node.rt.Go("down", c.writeQueue)
	}
}

// due reports whether writeQueue has work. c.mu is held.
func (c *proxy) due() bool {
	return len(c.queue) > 0 || c.fin && !c.toldEnd || !c.ended && (c.closed || c.broken != "" || c.leaving)
}

// writeQueue writes the queue to the phone and then ends the phone if it is time.
// It waits for the socket.
func (c *proxy) writeQueue() {
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

// last returns the next action after the queue has been written. c.mu is held, but
// not while the action runs.
func (c *proxy) last() func() {
	half := func() { _ = c.sock.CloseWrite() }
	switch {
	case c.fin && !c.toldEnd:
		c.toldEnd = true
		return half
	case c.closed && c.broken == "" && c.toldEnd:
		c.ended = true
		return c.Abort // the far end has waited for the phone's answer
	case c.closed && c.broken == "":
		c.ended = true
		c.lingers() // the far end was cut; give the last bytes time to arrive
		return half
	}
	c.ended = true
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
			c.Abort() // inside a message, the phone takes a close message for the rest of it
			return
		}
		if _, err := c.sock.Write(wire.AppendClose(nil, code, reason)); err != nil {
			c.Abort()
			return
		}
		half()
	}
}
