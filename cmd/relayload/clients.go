package main

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// phone is a connected phone. It checks every frame that it receives.
type phone struct {
	*peer
	fleet  *fleet
	number int
	connID string // known to the binary; used in a fan-out

	got     uint64        // frames received; owned by loop
	taken   atomic.Uint64 // copy of got, updated after each batch
	checker *framer
	late    latencies

	// Guarded by peer.mu. In a fan-out the sender owns these fields.
	sent  uint64
	maker *framer
	times []int64 // send times of the frames in flight
}

// hello makes the phone's first round trip.
func (ph *phone) hello() error {
	_ = ph.conn.SetDeadline(time.Now().Add(ph.fleet.to.timeout))
	defer ph.conn.SetDeadline(time.Time{})
	ph.post(0)
	ph.mu.Lock()
	err := ph.flushLocked()
	ph.mu.Unlock()
	for err == nil {
		var b []byte
		var ok bool
		if b, ok, err = ph.frame(); ok {
			ph.got++
			ph.taken.Store(ph.got)
			return ph.checker.check(b, 0)
		} else if err == nil {
			err = ph.fill()
		}
	}
	return err
}

// post appends the phone's next frame to its output buffer; now is its send
// time.
func (ph *phone) post(now int64) {
	ph.mu.Lock()
	ph.times[ph.sent%uint64(len(ph.times))] = now
	ph.out = appendMasked(ph.out, opText, ph.maker.frame(ph.sent))
	ph.sent++
	ph.mu.Unlock()
}

// frame returns the next complete frame in the buffer. A raw connection returns
// the client's own bytes, so that the frame is still masked.
func (ph *phone) frame() (b []byte, ok bool, err error) {
	if !ph.raw {
		return ph.take()
	}
	head := 2 + 4
	switch {
	case ph.fleet.size > 0xffff:
		head += 8
	case ph.fleet.size > 125:
		head += 2
	}
	if ph.w-ph.r < head+ph.fleet.size {
		return nil, false, nil
	}
	b = ph.in[ph.r+head : ph.r+head+ph.fleet.size]
	ph.r += head + ph.fleet.size
	mask(b)
	return b, true, nil
}

// processStart is the zero of all timestamps.
var processStart = time.Now()

// clockNow returns the nanoseconds since processStart on the monotonic clock.
func clockNow() int64 { return int64(time.Since(processStart)) }

// loop reads until the connection ends and returns the cause.
func (ph *phone) loop() error {
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
			if !fl.fanout {
				ph.late.add(time.Duration(now - ph.times[ph.got%uint64(len(ph.times))]))
				if !fl.stop.Load() {
					ph.post(now)
				}
			}
			ph.got++
			continue
		}
		ph.taken.Store(ph.got)
		if fl.fanout {
			select {
			case fl.room <- struct{}{}:
			default:
			}
		} else {
			ph.mu.Lock()
			err = ph.flushLocked()
			ph.mu.Unlock()
		}
		if err == nil {
			err = ph.fill()
		}
		if err != nil {
			return err
		}
		now = clockNow()
	}
}

// loadBinary is a connected binary.
type loadBinary struct {
	*peer
	phones []*phone
	mu     sync.Mutex
	ids    map[int]string // conn-ids by phone number
}

// echo reads until the connection ends. It sends every envelope back unchanged,
// which delivers the frame to the phone that sent it. It records the conn-id of
// each phone from the phone's first frame.
func (b *loadBinary) echo() error {
	var out []byte
	for {
		payload, ok, err := b.take()
		if err != nil {
			return err
		}
		if ok {
			id, frame, err := parseEnvelope(payload)
			if err != nil {
				return err
			}
			if frame == nil {
				continue // a close notice
			}
			if err := b.recordConnID(id, frame); err != nil {
				return err
			}
			out = appendMasked(out, opText, payload)
			continue
		}
		if len(out) > 0 {
			b.peer.mu.Lock()
			_, err = b.conn.Write(out)
			b.peer.mu.Unlock()
			out = out[:0]
		}
		if err == nil {
			err = b.fill()
		}
		if err != nil {
			return err
		}
	}
}

// recordConnID stores a phone's conn-id if frame is the phone's frame number 0.
func (b *loadBinary) recordConnID(id, frame []byte) error {
	if len(frame) < minFrame {
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

// appendNext appends the next frame for ph, wrapped in its envelope.
func (ph *phone) appendNext(b []byte) []byte {
	b = append(append(append(b, envelopeHead...), ph.connID...), envelopeMid...)
	b = append(append(b, ph.maker.frame(ph.sent)...), '}')
	ph.sent++
	return b
}

// fanoutBatch is the number of bytes that fanOut writes with one system call.
const fanoutBatch = 32 << 10

// fanOut sends frames to the phones in round-robin order. It keeps at most
// flight frames in flight per phone, and returns when fl.stop is set.
func (b *loadBinary) fanOut(fl *fleet) error {
	var out, envelope []byte
	for !fl.stop.Load() {
		sent := false
		for _, ph := range b.phones {
			if ph.sent-ph.taken.Load() >= uint64(fl.flight) {
				continue
			}
			envelope = ph.appendNext(envelope[:0])
			out = appendMasked(out, opText, envelope)
			sent = true
		}
		if len(out) > 0 && (!sent || len(out) >= fanoutBatch) {
			b.peer.mu.Lock()
			_, err := b.conn.Write(out)
			b.peer.mu.Unlock()
			if err != nil {
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
	if len(out) > 0 {
		b.peer.mu.Lock()
		defer b.peer.mu.Unlock()
		_, err := b.conn.Write(out)
		return err
	}
	return nil
}
