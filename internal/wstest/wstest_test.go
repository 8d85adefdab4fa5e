package wstest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheReaderRefusesWhatARelayMustNotSend(t *testing.T) {
	for _, tt := range []struct {
		name, bytes string
		want        string // of the error; empty: none
	}{
		{"text", "\x81\x02hi", ""},
		{"text of 126 bytes", "\x81\x7e\x00\x7e" + strings.Repeat("x", 126), ""},
		{"text of 64 KiB", "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + strings.Repeat("x", 1<<16), ""},
		{"ping", "\x89\x01x", ""},
		{"close", "\x88\x02\x03\xe8", ""},
		{"masked", "\x81\x81\x00\x00\x00\x00x", "not a frame"},
		{"RSV1", "\xc1\x00", "not a frame"},
		{"fragment", "\x01\x01x", "not a frame"},
		{"ping of 126 bytes", "\x89\x7e\x00\x7e" + strings.Repeat("x", 126), "not a frame"},
		{"short length in two bytes", "\x81\x7e\x00\x7d", "not a frame"},
		{"short length in eight bytes", "\x81\x7f\x00\x00\x00\x00\x00\x00\xff\xff", "not a frame"},
		{"length of 2⁶³", "\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00", "not a frame"},
		{"binary", "\x82\x01x", "opcode 2"},
		{"continuation", "\x80\x01x", "opcode 0"},
		{"opcode 11", "\x8b\x00", "opcode 11"},
	} {
		for cut := range min(len(tt.bytes), 12) {
			if _, n, err := ParseFrame([]byte(tt.bytes[:cut])); n != 0 || err != nil && tt.want == "" {
				t.Errorf("%s, the first %d bytes: length %d, %v; want none", tt.name, cut, n, err)
			}
		}
		f, n, err := ParseFrame([]byte(tt.bytes + "more"))
		switch {
		case tt.want == "" && (err != nil || n != len(tt.bytes) || !strings.HasSuffix(tt.bytes, string(f.Payload))):
			t.Errorf("%s: %v, length %d, %v; want the frame", tt.name, f.Op, n, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v; want an error with %q", tt.name, err, tt.want)
		}
		r := strings.NewReader(tt.bytes + "more")
		one, err := ReadFrame(r)
		if (err == nil) != (tt.want == "") || err == nil && (r.Len() != len("more") || !bytes.Equal(one.Payload, f.Payload)) {
			t.Errorf("%s: ReadFrame returns %v and leaves %d bytes; want what ParseFrame returns, and 4", tt.name, err, r.Len())
		}
	}
}

// pair returns a Conn and the relay's end of the connection.
func pair(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	here, far := net.Pipe()
	t.Cleanup(func() { here.Close(); far.Close() })
	return NewConn(here, nil, 1), far
}

// answer reads one frame of the client.
func answer(t *testing.T, far net.Conn, first byte, payload string) {
	t.Helper()
	want := AppendFrame(nil, first, payload)
	got := make([]byte, len(want))
	_ = far.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the client answers %x, %v; want %x", got, err, want)
	}
}

func TestTheClientAnswersPingsAndTheClose(t *testing.T) {
	c, far := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.WriteString(far, "\x89\x01p")
		answer(t, far, FIN|Pong, "p")
		_, _ = io.WriteString(far, "\x81\x02hi\x88\x05\x11\x34bye")
		answer(t, far, FIN|Close, "\x11\x34")
	}()
	if op, b, err := c.ReadMessage(); op != Text || string(b) != "hi" || err != nil {
		t.Errorf("%d, %q, %v; want hi", op, b, err)
	}
	_, _, err := c.ReadMessage()
	if !IsClose(err, 1000, 4404) || IsClose(err, 1000) || err.Error() != "closed by the relay: 4404 bye" {
		t.Errorf("%v; want close 4404 bye", err)
	}
	<-done
}

func TestBadClosesAndBadTextAreErrors(t *testing.T) {
	for _, text := range []string{"\x88\x01\x03", "\x88\x02\x03\xed", "\x88\x02\x00\x00", "\x88\x02\x13\x88", "\x88\x03\x03\xe8\xff", "\x81\x01\xff"} {
		c, far := pair(t)
		go func() {
			_, _ = io.WriteString(far, text)
			_, _ = io.Copy(io.Discard, far)
		}()
		_, _, err := c.ReadMessage()
		if _, ok := errors.AsType[*CloseError](err); ok || err == nil {
			t.Errorf("% x: %v; want an error that is no close", text, err)
		}
		c.Close()
	}
}

func TestAnEndInsideAFrameIsUnexpected(t *testing.T) {
	for text, want := range map[string]error{"\x81\x02hi": io.EOF, "\x81\x02hi\x81": io.ErrUnexpectedEOF} {
		c, far := pair(t)
		go func() { _, _ = io.WriteString(far, text); far.Close() }()
		_, _, _ = c.ReadMessage()
		if _, _, err := c.ReadMessage(); err != want {
			t.Errorf("%x: %v; want %v", text, err, want)
		}
	}
}

// serve answers one upgrade on loopback with a text. It replaces KEY by the right
// Sec-WebSocket-Accept.
func serve(t *testing.T, text string) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, strings.ReplaceAll(text, "KEY", accept(req.Header.Get("Sec-WebSocket-Key"))))
	}()
	return "ws://" + ln.Addr().String()
}

func TestADialChecksTheAnswer(t *testing.T) {
	const good = "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\n"
	for _, tt := range []struct{ text, want string }{
		{good + "\r\n", ""},
		{strings.Replace(good, "KEY", "KEY=", 1) + "\r\n", "wrong Sec-WebSocket-Accept"},
		{strings.Replace(good, "websocket", "h2c", 1) + "\r\n", "not an upgrade"},
		{good + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "negotiates"},
		{"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull", "refused: HTTP 503 Service Unavailable: full"},
		{"nonsense\r\n\r\n", "no answer to the handshake"},
	} {
		c, _, err := Dial(serve(t, tt.text), nil)
		if err == nil {
			c.Close()
		}
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60q: %v; want %q", tt.text, err, tt.want)
		}
	}
}

func TestFramesThatFollowTheAnswerAreNotLost(t *testing.T) {
	c, _, err := Dial(serve(t, "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\n\r\n\x81\x02hi"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, b, err := c.ReadMessage(); string(b) != "hi" || err != nil {
		t.Errorf("%q, %v; want hi", b, err)
	}
}

func TestAProcessIsReadyOrSaysWhyNot(t *testing.T) {
	ready := func(line string) bool { return line == "ready" }
	sh := func(script string) *exec.Cmd { return exec.Command("/bin/sh", "-c", script) }
	log := new(Log)
	p, err := StartProcess(t.Context(), "one", sh("echo first; echo ready; exec sleep 60"), log, patience, ready)
	if err != nil {
		t.Fatal(err)
	}
	if got := log.String(); got != "first\nready\n" {
		t.Errorf("the log is %q", got)
	}
	p.End()
	if p.Wait() == nil {
		t.Error("a process that is terminated ends with success")
	}
	if _, err := StartProcess(t.Context(), "two", sh("echo wrong option; exit 2"), io.Discard, patience, ready); err == nil || err.Error() != "two did not start: wrong option" {
		t.Errorf("%v; want what it said", err)
	}
	if _, err := StartProcess(t.Context(), "three", sh("exec sleep 60"), io.Discard, 10*time.Millisecond, ready); err == nil || !strings.Contains(err.Error(), "three was not ready within 10ms") {
		t.Errorf("%v; want a timeout", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := StartProcess(ctx, "four", sh("exec sleep 60"), io.Discard, patience, ready); !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want that it was interrupted", err)
	}
}
