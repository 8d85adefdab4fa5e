package main

import (
	"sync/atomic"
	"time"
)

// phone is the end of a phone.
type phone struct {
	*peer
	fleet  *fleet
	number int
	connID string // in a fan-out

	got     uint64        // owned by loop
	taken   atomic.Uint64 // got, after each batch
	checker *framer
	late    latencies

	// Guarded by peer.mu, in a fan-out owned by its sender.
	sent  uint64
	maker *framer
	times []int64 // when the frames under way left
}

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

// post queues the phone's next frame.
func (ph *phone) post(now int64) {
	ph.mu.Lock()
	ph.times[ph.sent%uint64(len(ph.times))] = now
	ph.out = appendMasked(ph.out, opText, ph.maker.frame(ph.sent))
	ph.sent++
	ph.mu.Unlock()
}

// frame is the next frame that has come whole. A copier of bytes sends back
// what a client sends, mask and all.
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

// processStart is the zero of all times.
var processStart = time.Now()

func clockNow() int64 { return int64(time.Since(processStart)) }

// loop is the phone's reader. It ends with the connection.
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
