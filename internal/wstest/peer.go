package wstest

import (
	"bytes"
	"errors"
	"io"
	"time"
)

// T is the part of testing.TB that a Peer uses. The package does not import testing, so
// that commands can use the package.
type T interface {
	Helper()
	Cleanup(func())
	Logf(string, ...any)
	Fatalf(string, ...any)
}

// patience bounds each wait of a Peer. A test that waits this long fails, so that no
// other result depends on it.
const patience = 10 * time.Second

// Peer is a Conn of a test. Its own methods end the test at the first failure, and must
// be called in the test's goroutine.
type Peer struct {
	*Conn
	t T
}

// NewPeer returns c as a Peer, and closes it at the end of the test.
func NewPeer(t T, c *Conn) *Peer {
	t.Cleanup(func() { c.Close() })
	return &Peer{c, t}
}

// Send sends a text frame.
func (p *Peer) Send(s string) {
	p.t.Helper()
	if err := p.WriteMessage(Text, []byte(s)); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

// Frame sends one frame. first is its first byte: FIN, reserved bits and opcode.
func (p *Peer) Frame(first byte, payload string) {
	p.t.Helper()
	p.SendBytes(AppendFrame(nil, first, payload))
}

// SendBytes sends bytes unchanged.
func (p *Peer) SendBytes(b []byte) {
	p.t.Helper()
	if _, err := p.Write(b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// Recv returns the next data frame.
func (p *Peer) Recv() string {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	_, b, err := p.ReadMessage()
	if err != nil {
		p.t.Fatalf("receive: %v", err)
	}
	return string(b)
}

// Await reads frames until one has opcode op, and returns its payload. It answers no ping
// and no close.
func (p *Peer) Await(op byte) string {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	for {
		f, err := p.ReadFrame()
		if err != nil {
			p.t.Fatalf("before opcode %d: %v", op, err)
		}
		if f.Op == op {
			return string(f.Payload)
		}
	}
}

// WantClose reads until the close frame and answers it. It compares the code and the
// text.
func (p *Peer) WantClose(code int, text string) {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	for {
		_, b, err := p.ReadMessage()
		if err == nil {
			p.t.Logf("before the close: %.80s", b)
			continue
		}
		if e, ok := errors.AsType[*CloseError](err); !ok || e.Code != code || e.Text != text {
			p.t.Fatalf("ended with %v; want close %d %q", err, code, text)
		}
		return
	}
}

// WantEnd reads until the close frame and does not answer it. It compares every byte of
// the frame, and checks that the relay then closes the connection.
func (p *Peer) WantEnd(code int, text string) {
	p.t.Helper()
	if got, want := p.Await(Close), string(ClosePayload(code, text)); got != want {
		p.t.Fatalf("closed with %q; want %q", got, want)
	}
	if f, err := p.ReadFrame(); err != io.EOF {
		p.t.Fatalf("after the close: %v, %v; want EOF", f, err)
	}
}

// End describes the end of a connection.
type End struct {
	Code int // of the close frame; 0: none
	Text string
	Err  error // nil if a close frame ended the connection
}

// EndOf returns the end that a read's error reports.
func EndOf(err error) End {
	if e, ok := errors.AsType[*CloseError](err); ok {
		return End{Code: e.Code, Text: e.Text}
	}
	return End{Err: err}
}

// Hear reads p until it ends, in a goroutine of its own, and answers pings. It sends the
// messages to the first channel. At the end it sends the end to the second channel and
// closes the first.
func (p *Peer) Hear() (<-chan string, <-chan End) {
	messages, ends := make(chan string, 1<<16), make(chan End, 1)
	_ = p.SetReadDeadline(time.Time{})
	go func() {
		defer close(messages)
		for {
			_, b, err := p.ReadMessage()
			if err != nil {
				ends <- EndOf(err)
				return
			}
			messages <- string(b)
		}
	}()
	return messages, ends
}

// Attend reads p until it ends, in a goroutine of its own. It answers pings and discards
// messages. Then it closes p and sends the end to the channel.
func (p *Peer) Attend() <-chan End {
	ends := make(chan End, 1)
	_ = p.SetReadDeadline(time.Time{})
	go func() {
		for {
			if _, err := p.Next(); err != nil {
				p.Close()
				ends <- EndOf(err)
				return
			}
		}
	}()
	return ends
}

// Echo sends every envelope with a frame back to the phone that sent the frame, in a
// goroutine of its own, until p ends.
func (p *Peer) Echo() {
	_ = p.SetReadDeadline(time.Time{})
	go func() {
		for {
			b, err := p.Next()
			if err != nil || bytes.Contains(b, []byte(`"frame"`)) && p.WriteMessage(Text, b) != nil {
				return
			}
		}
	}()
}

// On returns p as a Peer of another test, for example of a subtest.
func (p *Peer) On(t T) *Peer { return &Peer{p.Conn, t} }
