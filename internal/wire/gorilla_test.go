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

// memConn is a connection on which everything to be read has come, and nobody
// reads what is written.
type memConn struct {
	net.Conn // nil: nothing else is called
	in       *bytes.Reader
}

func (c memConn) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c memConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c memConn) Close() error                     { return nil }
func (c memConn) SetDeadline(time.Time) error      { return nil }
func (c memConn) SetWriteDeadline(time.Time) error { return nil }

// hijacked is a response that hands its memConn to the upgrader.
type hijacked struct {
	http.ResponseWriter
	conn memConn
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// byGorilla reads stream as gorilla's server does. A close ends the events; err
// is nil when the stream ended, wherever it did.
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
	if limit > 0 { // to gorilla zero is no limit
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
		// gorilla gives the end of the stream inside a message as a close 1006.
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

// closeEvent is a close by what it means, since gorilla does not give its bytes.
func closeEvent(code CloseCode, reason string) event {
	return event{OpClose, string(AppendClose(nil, code, reason))}
}

// byUs reads stream as the relay does, up to the first close.
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

// sameAsGorilla holds the assembler against gorilla's reader: the same messages
// in the same order, and an error where gorilla has one. The differences, all
// meant:
//
//   - A length that is not in its shortest form is an error here (RFC 6455 §5.2
//     demands the shortest); gorilla reads on.
//   - A close payload of one byte is an error here (§5.5.1); to gorilla it is a
//     close without a code. Close code 1014 is legal here (IANA); to gorilla not.
//   - A message that is too big is an error here as soon as its length has come;
//     gorilla waits for the mask.
//   - gorilla has no bound on fragments; it is put out of reach here.
//
// Which error it is may differ: a reason that is not UTF-8 is 1007 here, 1002
// with gorilla, and too big is 1009 in both, but gorilla closes by itself.
func sameAsGorilla(t rapid.TB, stream []byte, limit int) {
	got, gotErr := byUs(stream, limit)
	want, wantErr := byGorilla(t, stream, limit)
	switch {
	case gotErr == errLengthForm || gotErr == errCloseShort:
		if len(want) > len(got) {
			want = want[:len(got)] // gorilla reads on
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
