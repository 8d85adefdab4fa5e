package wstest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
	"unicode/utf8"
)

// Conn is a client's end of a WebSocket connection. One goroutine may read. Several
// goroutines may write concurrently. The embedded net.Conn carries the bytes below
// WebSocket: a caller must not use its Read after Fill, ReadFrame, Next or
// ReadMessage.
type Conn struct {
	net.Conn

	observer Observer // nil: none

	in   []byte // bytes read from the connection
	r, w int    // in[r:w] is not consumed yet

	mu     sync.Mutex // guards out, closed, and writes to the connection
	out    []byte
	closed bool // a close frame has been sent
}

// NewConn returns a Conn on an upgraded connection. early holds the bytes of frames
// that the caller has already read from it. buffer is the initial size of the read
// buffer, which grows if a frame needs more room.
func NewConn(c net.Conn, early []byte, buffer int) *Conn {
	in := make([]byte, max(buffer, len(early)))
	return &Conn{Conn: c, in: in, w: copy(in, early)}
}

// Observer is told what a Conn sends and receives. The Conn calls it before it writes and
// after it reads, in the order of the bytes in each direction. A payload is valid during
// the call. Reads and writes may call it concurrently.
type Observer interface {
	Sends(first byte, payload []byte) // a frame, with the first byte of its header
	SendsBytes()                      // bytes of Write that are not whole frames
	Receives(op byte, payload []byte) // a frame
	Leaves()                          // the caller closes the connection
	Ends()                            // a read has failed for another reason than a deadline
}

// Observe makes c tell o what it sends and receives from now on. Call it before any other
// method of c.
func (c *Conn) Observe(o Observer) { c.observer = o }

// Close closes the connection without a close frame.
func (c *Conn) Close() error {
	if c.observer != nil {
		c.observer.Leaves()
	}
	return c.Conn.Close()
}

// NetConn returns the connection below WebSocket.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Fill blocks until it has read more bytes. Payloads that the Conn returned before are
// invalid afterwards.
func (c *Conn) Fill() error {
	if c.r > 0 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
	if c.w == len(c.in) {
		c.in = append(c.in, make([]byte, max(len(c.in), 512))...)
	}
	n, err := c.Conn.Read(c.in[c.w:])
	c.w += n
	if n > 0 {
		return nil // the next read returns the error
	}
	if c.observer != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.observer.Ends()
	}
	return err
}

// TakeBytes returns the next n bytes of the buffer without interpreting them. ok is
// false if the buffer has fewer.
func (c *Conn) TakeBytes(n int) (b []byte, ok bool) {
	if c.w-c.r < n {
		return nil, false
	}
	c.r += n
	return c.in[c.r-n : c.r], true
}

// takeFrame returns the next frame of the buffer. ok is false if the buffer has no
// complete frame.
func (c *Conn) takeFrame() (f Frame, ok bool, err error) {
	f, n, err := ParseFrame(c.in[c.r:c.w])
	c.r += n
	if n > 0 && err == nil && c.observer != nil {
		c.observer.Receives(f.Op, f.Payload)
	}
	return f, n > 0, err
}

// ReadFrame returns the next frame of any kind, and answers no ping and no close. The
// payload is valid until the next call.
func (c *Conn) ReadFrame() (Frame, error) {
	for {
		if f, ok, err := c.takeFrame(); ok || err != nil {
			return f, err
		}
		if err := c.Fill(); err != nil {
			if err == io.EOF && c.r < c.w {
				err = io.ErrUnexpectedEOF
			}
			return Frame{}, err
		}
	}
}

// handle answers a ping or a close, as a client must. It returns the payload of a data
// frame, and a *CloseError for a close frame.
func (c *Conn) handle(f Frame) (payload []byte, data bool, err error) {
	switch f.Op {
	case Text:
		return f.Payload, true, nil
	case Ping:
		return nil, false, c.WriteFrame(FIN|Pong, f.Payload)
	case Close:
		err := parseClose(f.Payload)
		c.mu.Lock()
		answer := !c.closed
		c.mu.Unlock()
		if answer {
			_ = c.WriteFrame(FIN|Close, f.Payload[:min(2, len(f.Payload))])
		}
		return nil, false, err
	}
	return nil, false, nil // a pong
}

// Take returns the payload of the next data frame of the buffer, and answers pings and
// a close. ok is false if the buffer has no complete data frame. The payload is valid
// until the next Fill.
func (c *Conn) Take() (payload []byte, ok bool, err error) {
	for {
		f, whole, err := c.takeFrame()
		if err != nil || !whole {
			return nil, false, err
		}
		if payload, data, err := c.handle(f); data || err != nil {
			return payload, data, err
		}
	}
}

// Next blocks until a data frame arrives and returns its payload, which is valid
// until the next call. It answers pings and a close.
func (c *Conn) Next() ([]byte, error) {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return nil, err
		}
		if payload, data, err := c.handle(f); data || err != nil {
			return payload, err
		}
	}
}

// ReadMessage is like Next. It also returns the opcode, which is Text, and the caller
// may keep the payload. It returns an error if the payload is not UTF-8.
func (c *Conn) ReadMessage() (op int, payload []byte, err error) {
	b, err := c.Next()
	if err == nil && !utf8.Valid(b) {
		err = errors.New("the relay sent a text frame that is not UTF-8")
	}
	return Text, bytes.Clone(b), err
}

// Write writes b unchanged: frames, a part of a frame, or invalid bytes. The Conn writes
// no answer to a ping between the bytes of b.
func (c *Conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.observer != nil {
		c.observe(b)
	}
	return c.Conn.Write(b)
}

// observe tells the observer of the frames in b.
func (c *Conn) observe(b []byte) {
	for len(b) > 0 {
		head, size := header(b)
		if len(b) < head+4 || b[1]&0x80 == 0 || uint64(len(b)-head-4) < size || [4]byte(b[head:]) != maskKey {
			c.observer.SendsBytes()
			return
		}
		payload := bytes.Clone(b[head+4:][:size])
		Mask(payload)
		c.observer.Sends(b[0], payload)
		b = b[head+4+int(size):]
	}
}

// WriteFrame writes one masked frame. first is the frame's first byte: FIN, reserved
// bits and opcode.
func (c *Conn) WriteFrame(first byte, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = c.closed || first&0x0f == Close
	if c.observer != nil {
		c.observer.Sends(first, payload)
	}
	c.out = AppendFrame(c.out[:0], first, payload)
	_, err := c.Conn.Write(c.out)
	return err
}

// WriteMessage writes a message in one frame.
func (c *Conn) WriteMessage(op int, payload []byte) error {
	return c.WriteFrame(FIN|byte(op), payload)
}

// WriteClose writes a close frame.
func (c *Conn) WriteClose(code int, text string) error {
	return c.WriteFrame(FIN|Close, ClosePayload(code, text))
}

// Bye closes with code 1000 and waits up to one second for the answer, so that the
// relay counts an orderly close.
func (c *Conn) Bye() {
	_ = c.SetDeadline(time.Now().Add(time.Second))
	err := c.WriteClose(1000, "")
	for err == nil {
		_, err = c.Next()
	}
	c.Close()
}

// Reset closes the connection with a TCP RST, like a machine that restarts after a
// crash.
func (c *Conn) Reset() {
	if c.observer != nil {
		c.observer.Leaves()
	}
	Reset(c.Conn)
}

// Reset closes c with a TCP RST if it is a TCP connection.
func Reset(c net.Conn) {
	if tcp, ok := c.(interface{ SetLinger(int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}
