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
// incomplete. It has no task of its own; at most one task runs its steps.
type proxy struct {
	*stream
	sock   relay.Socket
	onGone func() // the ended of Carry

	// Owned by the task that set running.
	buf    *relay.Buffer // that rest is in; nil: none
	rest   []byte        // read from the phone, without credit so far
	more   bool          // another read may bring bytes
	eof    bool          // no read brings any more
	bytes  []byte        // being written to the phone
	out    *relay.Buffer // that bytes is in; nil: bytes has its own memory
	then   func()        // called when bytes is empty; nil: nothing
	frames wire.FrameTracker

	// Guarded by the stream's lock.
	started  bool // Carry has been called
	running  bool // a task runs step
	again    bool // it must look once more
	readable bool // the socket has called Ready
	writable bool
	leaving  bool // the phone is being closed, with the following code and reason
	code     wire.CloseCode
	reason   string
	toldEnd  bool // the writing half of the socket is shut down
	ended    bool // all that remains is the end of the socket
	gone     bool // the socket is closed
	linger   *clock.Timer

	lingering bool // linger was set by lingers
}

// newProxy returns a proxy with a new stream to owner, which the link to owner has. It
// returns nil if there is no link.
func (n *Node) newProxy(owner NodeID) *proxy {
	l := n.linkTo(owner)
	if l == nil {
		return nil
	}
	c := &proxy{stream: l.newStream(l.newStreamID())}
	c.stream.input = c.run
	if c.id == 0 || !l.add(c.stream) {
		return nil
	}
	return c
}

// Carry implements relay.Stream.
func (c *proxy) Carry(sock relay.Socket, ended func()) {
	c.sock, c.onGone = sock, ended
	sock.Start(c)
	c.mu.Lock()
	c.started, c.readable, c.writable = true, true, true
	c.mu.Unlock()
	c.wakeAlone() // for the bytes that came before Carry
}

// Close implements relay.Stream.
func (c *proxy) Close(code wire.CloseCode, reason string) {
	c.leave(code, reason)
	c.wakeAlone()
}

// leave makes down close the phone with code, after the bytes that have
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
	c.wakeAlone()      // to free what it holds
	c.onGone()
}

// Ready implements relay.Watcher.
func (c *proxy) Ready(t *relay.Turn, readable, writable bool) {
	c.mu.Lock()
	c.readable = c.readable || readable
	c.writable = c.writable || writable
	c.mu.Unlock()
	c.run(t)
}

// run runs steps, unless another task does, which then looks once more.
func (c *proxy) run(t *relay.Turn) {
	c.mu.Lock()
	c.again = true
	if !c.started || c.running {
		c.mu.Unlock()
		return
	}
	for c.running = true; c.again; c.mu.Lock() {
		c.again = false
		read, write, gone := c.readable, c.writable, c.gone
		c.readable = false
		c.mu.Unlock()
		if gone {
			c.rest, c.bytes = nil, nil
			c.free()
			c.freeOut()
			continue
		}
		c.up(t, read)
		c.down(write)
	}
	c.running = false
	if len(c.bytes) > 0 && !c.gone && c.linger == nil && (c.closed || c.broken != "") {
		c.linger = c.node.rt.Clock.AfterFunc(lastWrite, c.Abort) // the far end no longer watches the phone
	}
	c.mu.Unlock()
}

// up forwards bytes from the phone, as far as there is credit. When the stream has ended,
// it goes on reading and discards the bytes: closing a socket with unread bytes destroys
// the bytes on their way to the phone.
func (c *proxy) up(t *relay.Turn, read bool) {
	if c.buf == nil {
		if c.eof || !read {
			return
		}
		b := c.node.rt.NewBuffer()
		n, more, err := c.sock.TryRead(b[:])
		c.buf, c.rest, c.more = b, b[:n], more
		if err != nil {
			c.free()
			c.endOfPhone()
			return
		}
	} else if read {
		c.more = true // Ready came while rest waited for credit
	}
	k, err := c.write(c.rest)
	if k > 0 {
		t.Later(c.link)
	}
	if c.rest = c.rest[k:]; err == nil && len(c.rest) > 0 {
		c.pin(len(c.buf)) // until credit calls run
		return
	}
	c.free() // after an error, run ends the phone
	if c.more {
		t.Again(c)
	}
}

// endOfPhone forwards the end of the phone's bytes.
func (c *proxy) endOfPhone() {
	c.eof = true
	_ = c.finish() // after an error, run ends the phone
	c.mu.Lock()
	over := c.over || c.closed || c.leaving || c.broken != ""
	c.mu.Unlock()
	if over {
		c.Abort() // the far end needs the socket no longer
	}
}

// free gives back the buffer.
func (c *proxy) free() {
	if c.buf != nil {
		c.node.rt.FreeBuffer(c.buf)
		c.buf, c.rest = nil, nil
		c.pin(0)
	}
}

// pin records that a buffer of n bytes waits for credit.
func (c *proxy) pin(n int) {
	c.mu.Lock()
	c.pinned = n
	c.holds()
	c.mu.Unlock()
}

// due reports whether down has work. c.mu is held.
func (c *proxy) due() bool {
	return len(c.queue) > 0 || c.fin && !c.toldEnd || !c.ended && (c.closed || c.broken != "" || c.leaving)
}

// down writes the queue to the phone, as much as goes now, and then ends the phone if it
// is time.
func (c *proxy) down(write bool) {
	for {
		switch then := c.then; {
		case len(c.bytes) > 0 && !write:
			return
		case len(c.bytes) > 0:
		case then != nil:
			c.then = nil
			then()
			continue
		case c.nextBytes():
			continue
		default:
			return
		}
		c.mu.Lock()
		c.writable = false
		c.mu.Unlock()
		n, err := c.sock.TryWrite(c.bytes)
		c.frames.Skip(c.bytes[:n])
		c.consume(n)
		if c.bytes = c.bytes[n:]; err != nil {
			c.Abort()
			return
		}
		if c.out != nil && len(c.bytes) <= len(c.out)/4 {
			c.bytes = append([]byte(nil), c.bytes...)
			c.freeOut()
		}
		c.mu.Lock()
		c.inWrite = cap(c.bytes)
		c.holds()
		c.writable = c.writable || len(c.bytes) == 0
		write = c.writable
		c.mu.Unlock()
	}
}

func (c *proxy) freeOut() {
	if c.out != nil {
		c.node.rt.FreeBuffer(c.out)
		c.out = nil
	}
}

// nextBytes takes what is to be written next. It reports false if there is nothing to
// write and nothing to end.
func (c *proxy) nextBytes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || !c.due() {
		return false
	}
	if len(c.queue) == 0 {
		c.bytes, c.then = c.last()
		return true
	}
	c.bytes, c.out = c.queue, c.queueBuf
	c.queue, c.queueBuf, c.queueCap = nil, nil, 0
	return true
}

// last returns what is to be done after the queue has been written: the bytes to write,
// and the action after them. c.mu is held, but not while the action runs.
func (c *proxy) last() ([]byte, func()) {
	half := func() { _ = c.sock.CloseWrite() }
	switch {
	case c.fin && !c.toldEnd:
		c.toldEnd = true
		return nil, half
	case c.closed && c.broken == "" && c.toldEnd:
		c.ended = true
		return nil, c.Abort // the far end has waited for the phone's answer
	case c.closed && c.broken == "":
		c.ended = true
		c.lingers() // the far end was cut; give the last bytes time to arrive
		return nil, half
	}
	c.ended = true
	code, reason := c.code, c.reason
	if !c.leaving {
		code, reason = wire.CloseRestart, reasonBroken
	}
	c.leaving = true
	c.lingers()
	whole := c.frames.Whole() && !c.toldEnd
	return nil, func() {
		c.end(kindClose)
		if !whole {
			c.Abort() // inside a message, the phone takes a close message for the rest of it
			return
		}
		c.bytes, c.then = wire.AppendClose(nil, code, reason), half
	}
}
