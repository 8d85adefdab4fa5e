package wire

import (
	"bufio"
	"bytes"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"pgregory.net/rapid"
)

// memConn is a connection with all bytes to read already there. It discards writes.
type memConn struct {
	net.Conn // nil, because gorilla calls no other method
	in       *bytes.Reader
}

func (c memConn) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c memConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c memConn) Close() error                     { return nil }
func (c memConn) SetDeadline(time.Time) error      { return nil }
func (c memConn) SetWriteDeadline(time.Time) error { return nil }

// hijacked is a response that gives its memConn to the upgrader.
type hijacked struct {
	http.ResponseWriter
	conn memConn
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// byGorilla reads stream with gorilla's server. A close ends the events. err is nil if the
// stream ended, also inside a message.
func byGorilla(t rapid.TB, stream []byte, limit int) (events []event, err error) {
	request := &http.Request{Method: http.MethodGet, Header: http.Header{
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {"dGhlIHNhbXBsZSBub25jZQ=="},
	}}
	conn, err := new(websocket.Upgrader).Upgrade(hijacked{conn: memConn{in: bytes.NewReader(stream)}}, request, nil)
	if err != nil {
		t.Fatalf("gorilla's handshake: %v", err)
	}
	if limit > 0 { // in gorilla, zero means no limit
		conn.SetReadLimit(int64(limit))
	}
	conn.SetPingHandler(func(s string) error { events = append(events, event{OpPing, s}); return nil })
	conn.SetPongHandler(func(s string) error { events = append(events, event{OpPong, s}); return nil })
	conn.SetCloseHandler(func(code int, text string) error {
		if code == websocket.CloseNoStatusReceived {
			code = 0
		}
		events = append(events, closeEvent(CloseCode(code), text))
		return nil
	})
	for {
		op, payload, err := conn.ReadMessage()
		if err == nil {
			events = append(events, event{Opcode(op), string(payload)})
			continue
		}
		// gorilla reports the end of the stream inside a message as a close with 1006.
		if closed, ok := err.(*websocket.CloseError); ok && (closed.Code == websocket.CloseAbnormalClosure ||
			len(events) > 0 && events[len(events)-1].Op == OpClose) {
			return events, nil
		}
		if err == io.EOF {
			return events, nil
		}
		return events, err
	}
}

// closeEvent returns a close by its code and its reason, because gorilla does not return the
// bytes.
func closeEvent(code CloseCode, reason string) event {
	return event{OpClose, string(AppendClose(nil, code, reason))}
}

// byUs reads stream with an assembler, up to the first close.
func byUs(stream []byte, limit int) ([]event, error) {
	if limit <= 0 {
		limit = math.MaxInt
	}
	var a Assembler
	defer a.Discard()
	all, err := drain(&a, slices.Clone(stream), &Limits{Message: limit, Fragments: math.MaxInt32})
	for i, e := range all {
		if e.Op != OpClose {
			continue
		}
		code, reason, err := ParseClose([]byte(e.Payload))
		if err != nil {
			return all[:i], err
		}
		return append(all[:i:i], closeEvent(code, reason)), nil
	}
	return all, err
}

// sameAsGorilla compares the assembler with gorilla's reader: it must return the same messages
// in the same order, and an error where gorilla returns one. The intended differences:
//
//   - A length that is not in its shortest form is an error here (RFC 6455 §5.2
//     demands the shortest). gorilla accepts it.
//   - A close payload of one byte is an error here (§5.5.1). In gorilla it is a close
//     without a code. Close code 1014 is legal here (IANA), and not in gorilla.
//   - A message that is too big is an error here when its length has arrived. gorilla
//     waits for the masking key.
//   - gorilla does not limit the number of fragments. The test sets the limit so high that
//     no stream reaches it.
//
// The errors may differ: a reason that is not UTF-8 is 1007 here and 1002 in gorilla. A message
// that is too big is 1009 in both, but gorilla sends the close itself.
func sameAsGorilla(t rapid.TB, stream []byte, limit int) {
	got, gotErr := byUs(stream, limit)
	want, wantErr := byGorilla(t, stream, limit)
	switch {
	case gotErr == errLengthForm || gotErr == errCloseShort:
		if len(want) > len(got) {
			want = want[:len(got)] // gorilla accepts more
		}
		wantErr = gotErr
	case gotErr == errTooBig && wantErr == nil:
		wantErr = gotErr
	}
	if n := len(got); wantErr != nil && gotErr == nil && n > 0 && n == len(want)+1 && got[n-1].Op == OpClose {
		if got[n-1].Payload[2:4] != "\x03\xf6" { // 1014
			t.Fatalf("%x: gorilla refuses %v (%v), the assembler does not", stream, got[n-1], wantErr)
		}
		got, wantErr = got[:n-1], nil
	}
	if !slices.Equal(got, want) || (gotErr != nil) != (wantErr != nil) {
		t.Fatalf("%x with a limit of %d\n     got %v, %v\ngorilla %v, %v", stream, limit, got, gotErr, want, wantErr)
	}
}

func TestAssemblerReadsAsGorillaDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, stream := conversation(t)
		if rapid.Bool().Draw(t, "spoilt") { // anywhere in its first bytes, where headers are likely
			at := rapid.IntRange(0, min(len(stream), 64)-1).Draw(t, "at")
			stream[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		stream = stream[:rapid.OneOf(rapid.Just(len(stream)), rapid.IntRange(0, len(stream))).Draw(t, "length")]
		sameAsGorilla(t, stream, rapid.SampledFrom([]int{100, 300, 1 << 20}).Draw(t, "limit"))
	})
}
