package load

import (
	"bytes"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// textFrame is the first byte of every frame of a client.
const textFrame = wstest.FIN | wstest.Text

// Phone is a connected phone. It checks every frame that it receives.
type Phone struct {
	*wstest.Conn
	ConnID string // known to the binary; used in a fan-out

	fleet   *Fleet
	number  int
	got     uint64        // frames received; owned by the reader
	taken   atomic.Uint64 // copy of got, updated after each batch
	checker *framer
	late    Latencies

	mu    sync.Mutex // guards all below. In a fan-out the sender owns these fields.
	sent  uint64
	maker *framer
	times []int64 // send times of the frames in flight
	out   []byte  // frames that are not written yet
}

// NewPhone returns phone number n of the fleet on a connection.
func (fl *Fleet) NewPhone(c *wstest.Conn, n int) *Phone {
	return &Phone{Conn: c, fleet: fl, number: n,
		checker: newFramer(fl.Size, n), maker: newFramer(fl.Size, n), times: make([]int64, max(fl.Flight, 1))}
}

// RoundTrip makes one round trip within the timeout of the fleet's target. It must
// not be called while loop runs.
func (ph *Phone) RoundTrip() error {
	_ = ph.SetDeadline(time.Now().Add(ph.fleet.to.Timeout))
	defer ph.SetDeadline(time.Time{})
	ph.post(0)
	err := ph.flush()
	for err == nil {
		var b []byte
		var ok bool
		if b, ok, err = ph.frame(); ok {
			return ph.Check(b)
		} else if err == nil {
			err = ph.Fill()
		}
	}
	return err
}

// Check compares b with the next frame that the phone must receive.
func (ph *Phone) Check(b []byte) error {
	err := ph.checker.check(b, ph.got)
	ph.got++
	ph.taken.Store(ph.got)
	return err
}

// post appends the phone's next frame to its output buffer; now is its send
// time.
func (ph *Phone) post(now int64) {
	ph.mu.Lock()
	ph.times[ph.sent%uint64(len(ph.times))] = now
	ph.out = wstest.AppendFrame(ph.out, textFrame, ph.maker.frame(ph.sent))
	ph.sent++
	ph.mu.Unlock()
}

// flush writes the output buffer.
func (ph *Phone) flush() error {
	ph.mu.Lock()
	defer ph.mu.Unlock()
	if len(ph.out) == 0 {
		return nil
	}
	_, err := ph.Write(ph.out)
	ph.out = ph.out[:0]
	return err
}

// frame returns the next complete frame in the buffer. A raw connection returns
// the client's own bytes, so that the frame is still masked.
func (ph *Phone) frame() (b []byte, ok bool, err error) {
	if !ph.fleet.to.Raw {
		return ph.Take()
	}
	head := 2 + 4
	switch {
	case ph.fleet.Size > 0xffff:
		head += 8
	case ph.fleet.Size > 125:
		head += 2
	}
	if b, ok = ph.TakeBytes(head + ph.fleet.Size); !ok {
		return nil, false, nil
	}
	b = b[head:]
	wstest.Mask(b)
	return b, true, nil
}

// processStart is the zero of all timestamps.
var processStart = time.Now()

// Now returns the nanoseconds since the start of the process on the monotonic
// clock.
func Now() int64 { return int64(time.Since(processStart)) }

// loop reads until the connection ends and returns the cause.
func (ph *Phone) loop() error {
	fl := ph.fleet
	var now int64
	for {
		b, ok, err := ph.frame()
		if err != nil {
			return err
		}
		if ok {
			if err := ph.checker.check(b, ph.got); err != nil {
				return err
			}
			if !fl.Fanout {
				ph.late.Add(time.Duration(now - ph.times[ph.got%uint64(len(ph.times))]))
				if fl.Rate == 0 && !fl.stop.Load() {
					ph.post(now)
				}
			}
			ph.got++
			continue
		}
		ph.taken.Store(ph.got)
		if fl.Fanout {
			select {
			case fl.room <- struct{}{}:
			default:
			}
		} else {
			err = ph.flush()
		}
		if err == nil {
			err = ph.Fill()
		}
		if err != nil {
			return err
		}
		now = Now()
	}
}

// Binary is a connected binary.
type Binary struct {
	*wstest.Conn
	phones []*Phone
	mu     sync.Mutex
	ids    map[int]string // conn-ids by phone number
}

// ConnID returns the conn-id of the phone with the given number, after the phone's
// first frame.
func (b *Binary) ConnID(number int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ids[number]
}

// Echo reads until the connection ends and returns the cause. It sends every
// envelope back unchanged, which delivers the frame to the phone that sent it. It
// records the conn-id of each phone from the phone's first frame.
func (b *Binary) Echo() error {
	var out []byte
	for {
		payload, ok, err := b.Take()
		if err != nil {
			return err
		}
		if ok {
			id, frame, err := ParseEnvelope(payload)
			if err != nil {
				return err
			}
			if frame == nil {
				continue // a close notice
			}
			if err := b.recordConnID(id, frame); err != nil {
				return err
			}
			out = wstest.AppendFrame(out, textFrame, payload)
			continue
		}
		if len(out) > 0 {
			_, err = b.Write(out)
			out = out[:0]
		}
		if err == nil {
			err = b.Fill()
		}
		if err != nil {
			return err
		}
	}
}

// recordConnID stores a phone's conn-id if frame is the phone's frame number 0.
func (b *Binary) recordConnID(id, frame []byte) error {
	if len(frame) < MinFrame {
		return fmt.Errorf("wrong frame: %s", excerpt(frame, 0))
	}
	number := frame[len(frameHead):][:digits]
	for _, d := range number {
		if d != '0' {
			return nil
		}
	}
	n, err := strconv.Atoi(string(frame[len(frameHead)+digits:][:8]))
	if err != nil {
		return fmt.Errorf("wrong frame: %s", excerpt(frame, 0))
	}
	b.mu.Lock()
	b.ids[n] = string(id)
	b.mu.Unlock()
	return nil
}

// AppendNext appends the envelope with the next frame for ph to out, as a frame of
// its binary. scratch is used for the envelope and returned.
func (ph *Phone) AppendNext(out, scratch []byte) (more, scratchToo []byte) {
	scratch = AppendEnvelope(scratch[:0], ph.ConnID, ph.maker.frame(ph.sent))
	ph.sent++
	return wstest.AppendFrame(out, textFrame, scratch), scratch
}

// fanoutBatch is the number of bytes that fanOut writes with one system call.
const fanoutBatch = 32 << 10

// fanOut sends frames to the phones in round-robin order. It keeps at most
// Flight frames in flight per phone, and returns when fl.stop is set.
func (b *Binary) fanOut(fl *Fleet) error {
	var out, scratch []byte
	for !fl.stop.Load() {
		sent := false
		for _, ph := range b.phones {
			if ph.sent-ph.taken.Load() >= uint64(fl.Flight) {
				continue
			}
			out, scratch = ph.AppendNext(out, scratch)
			sent = true
		}
		if len(out) > 0 && (!sent || len(out) >= fanoutBatch) {
			if _, err := b.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
		if !sent {
			select {
			case <-fl.room:
			case <-time.After(10 * time.Millisecond): // the signal can precede this wait
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	_, err := b.Write(out)
	return err
}

// A frame has the format that clients use. Its data contain a frame number and a
// phone number, so that the receiver detects a frame that is lost, repeated,
// reordered or sent to the wrong phone.
const (
	frameHead = `{"v":2,"type":"noise_msg","data":"`
	frameTail = `"}`
	digits    = 12

	// MinFrame is the size of a frame with both numbers and no padding.
	MinFrame = len(frameHead) + digits + 8 + len(frameTail)
)

// framer makes and checks the frames of one phone in one direction.
type framer struct {
	plain []byte // the frame, with the number of the previous call
}

// newFramer returns a framer for frames of size bytes that contain phone number
// n.
func newFramer(size, n int) *framer {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	b := append(make([]byte, 0, size), frameHead...)
	b = append(b, bytes.Repeat([]byte{'0'}, digits)...)
	b = fmt.Appendf(b, "%08d", n)
	for i := n; len(b) < size-len(frameTail); i++ {
		b = append(b, alphabet[i*7%64])
	}
	return &framer{plain: append(b, frameTail...)}
}

// frame returns frame number n. The slice is valid until the next call of frame
// or check.
func (f *framer) frame(n uint64) []byte {
	at := f.plain[len(frameHead) : len(frameHead)+digits]
	for i := digits - 1; i >= 0; i-- {
		at[i] = '0' + byte(n%10)
		n /= 10
	}
	return f.plain
}

// check compares got with frame number n byte for byte.
func (f *framer) check(got []byte, n uint64) error {
	want := f.frame(n)
	if bytes.Equal(got, want) {
		return nil
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	return fmt.Errorf("wrong frame: %d bytes, want %d; they differ from byte %d on: %s, want %s",
		len(got), len(want), i, excerpt(got, i), excerpt(want, i))
}

func excerpt(b []byte, i int) string {
	return strconv.Quote(string(b[max(0, i-16):min(len(b), i+32)]))
}

const (
	envelopeHead = `{"conn_id":"`
	envelopeMid  = `","frame":`
)

// AppendEnvelope appends the envelope of a frame for a phone to dst.
func AppendEnvelope[S []byte | string](dst []byte, connID S, frame []byte) []byte {
	dst = append(append(append(dst, envelopeHead...), connID...), envelopeMid...)
	return append(append(dst, frame...), '}')
}

// ParseEnvelope splits an envelope from a relay. It accepts the relay's own
// format only. The frame is nil if the envelope is a close notice.
func ParseEnvelope(b []byte) (connID, frame []byte, err error) {
	if !bytes.HasPrefix(b, []byte(envelopeHead)) || len(b) < 2 || b[len(b)-1] != '}' {
		return nil, nil, fmt.Errorf("not an envelope: %s", excerpt(b, 0))
	}
	connID, rest, ok := bytes.Cut(b[len(envelopeHead):], []byte{'"'})
	if !ok || !bytes.HasPrefix(rest, []byte(envelopeMid[1:])) {
		return connID, nil, nil // a close notice
	}
	return connID, rest[len(envelopeMid)-1 : len(rest)-1], nil
}
