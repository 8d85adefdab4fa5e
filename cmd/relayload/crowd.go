package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// shape is how many connections of each kind, and what goes over them.
type shape struct {
	binaries, phones int // phones of each binary
	size             int // bytes of a frame
	flight           int // frames of a phone that are under way at once
	fanout           bool
}

func (s shape) connections() int { return s.binaries * (1 + s.phones) }

// crowd is binaries and their phones, connected. Without fanout phones send
// and binaries send back what they get; with it binaries send and phones
// only receive.
type crowd struct {
	shape
	to       *target
	binaries []*caller
	phones   []*phone
	flooders []*phone // of that binary, beside the phones that are measured
	server   string   // the server-id of the binary, if there is one

	stop   atomic.Bool
	ending atomic.Bool   // the connections are being closed: errors are none
	room   chan struct{} // a phone took something; for the senders of a fan-out

	mu  sync.Mutex
	err error // the first
}

// caller is the end of a binary.
type caller struct {
	*peer
	phones []*phone
	mu     sync.Mutex
	ids    map[int]string // conn-id of each phone by its number
}

// phone is the end of a phone.
type phone struct {
	*peer
	crowd  *crowd
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

func (c *crowd) fail(err error) {
	if c.ending.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
}

func (c *crowd) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// connectAtOnce is how many upgrades are under way while a crowd connects.
const connectAtOnce = 32

// gather connects a crowd. Every phone has made one round trip when it returns.
func gather(t *target, s shape, tell func(done, of int)) (*crowd, error) {
	c := &crowd{shape: s, to: t, room: make(chan struct{}, 1)}
	c.binaries = make([]*caller, s.binaries)
	c.phones = make([]*phone, s.binaries*s.phones)
	var done atomic.Int64
	var wg sync.WaitGroup
	slots := make(chan struct{}, connectAtOnce)
	for i := range s.binaries {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			if c.failed() != nil {
				return
			}
			if err := c.join(i, &done); err != nil {
				c.fail(err)
			}
		}()
		tell(int(done.Load()), s.connections())
	}
	wg.Wait()
	if err := c.failed(); err != nil {
		c.leave()
		return nil, err
	}
	return c, nil
}

// join connects binary i and its phones.
func (c *crowd) join(i int, done *atomic.Int64) error {
	var id [8]byte
	rand.Read(id[:])
	server := "load-" + hex.EncodeToString(id[:])
	if len(c.binaries) == 1 {
		c.server = server
	}
	b := &caller{ids: make(map[int]string)}
	if !c.to.raw {
		p, err := c.to.dial("/v1/server", server)
		if err != nil {
			return fmt.Errorf("binary %d: %w", i, err)
		}
		b.peer = p
		c.binaries[i] = b
		go func() { c.ended("binary", i, b.echo()) }()
	}
	done.Add(1)
	for j := range c.shape.phones {
		n := i*c.shape.phones + j
		ph, err := c.phone(server, n)
		if err != nil {
			return fmt.Errorf("phone %d: %w", n, err)
		}
		b.mu.Lock()
		ph.connID = b.ids[n]
		b.mu.Unlock()
		c.phones[n] = ph
		b.phones = append(b.phones, ph)
		go func() { c.ended("phone", n, ph.loop()) }()
		done.Add(1)
	}
	return nil
}

func (c *crowd) ended(kind string, n int, err error) { c.fail(fmt.Errorf("%s %d: %w", kind, n, err)) }

// joinPatience is how long a phone tries again while nobody holds its
// server-id: a binary has its 101 a moment before it holds its slot.
const joinPatience = 5 * time.Second

// phone connects phone n and makes its first round trip.
func (c *crowd) phone(server string, n int) (*phone, error) {
	for end := time.Now().Add(joinPatience); ; {
		p, err := c.to.dial("/v1/client", server)
		if err != nil {
			return nil, err
		}
		ph := &phone{peer: p, crowd: c, number: n,
			checker: newFramer(c.size, n), maker: newFramer(c.size, n), times: make([]int64, max(c.flight, 1))}
		err = ph.hello()
		if err == nil {
			return ph, nil
		}
		p.conn.Close()
		if !isClosed(err, 4404) || time.Now().After(end) {
			return nil, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (ph *phone) hello() error {
	_ = ph.conn.SetDeadline(time.Now().Add(ph.crowd.to.timeout))
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
	case ph.crowd.size > 0xffff:
		head += 8
	case ph.crowd.size > 125:
		head += 2
	}
	if ph.w-ph.r < head+ph.crowd.size {
		return nil, false, nil
	}
	b = ph.in[ph.r+head : ph.r+head+ph.crowd.size]
	ph.r += head + ph.crowd.size
	mask(b)
	return b, true, nil
}

// began is the zero of all times.
var began = time.Now()

func clockNow() int64 { return int64(time.Since(began)) }

// loop is the phone's reader. It ends with the connection.
func (ph *phone) loop() error {
	c := ph.crowd
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
			if !c.fanout {
				ph.late.add(time.Duration(now - ph.times[ph.got%uint64(len(ph.times))]))
				if !c.stop.Load() {
					ph.post(now)
				}
			}
			ph.got++
			continue
		}
		ph.taken.Store(ph.got)
		if c.fanout {
			select {
			case c.room <- struct{}{}:
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

// echo is the binary's reader: it sends every envelope back as it came,
// which makes it one for the phone, and tells by the first of each phone
// which conn-id it has.
func (b *caller) echo() error {
	var out []byte
	for {
		payload, ok, err := b.take()
		if err != nil {
			return err
		}
		if ok {
			id, frame, err := open(payload)
			if err != nil {
				return err
			}
			if frame == nil {
				continue // a close notice
			}
			if err := b.learn(id, frame); err != nil {
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

// learn notes who has which conn-id, from a phone's frame number 0.
func (b *caller) learn(id, frame []byte) error {
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

// sendAtOnce is how many bytes a fan-out's sender writes in one call.
const sendAtOnce = 32 << 10

// spread is the sender of a fan-out: round and round the phones, one frame
// each, as long as not more than flight of a phone's are under way.
func (b *caller) spread(c *crowd) error {
	var out, envelope []byte
	for !c.stop.Load() {
		sent := false
		for _, ph := range b.phones {
			if ph.sent-ph.taken.Load() >= uint64(c.flight) {
				continue
			}
			envelope = append(append(append(envelope[:0], envelopeHead...), ph.connID...), envelopeMid...)
			envelope = append(append(envelope, ph.maker.frame(ph.sent)...), '}')
			out = appendMasked(out, opText, envelope)
			ph.sent++
			sent = true
		}
		if len(out) > 0 && (!sent || len(out) >= sendAtOnce) {
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
			case <-c.room:
			case <-time.After(10 * time.Millisecond): // room may have come before
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

// addFlooders connects n more phones of the one binary, which will have flight
// round trips under way each.
func (c *crowd) addFlooders(n, flight int) error {
	for range n {
		number := len(c.phones) + len(c.flooders)
		ph, err := c.phone(c.server, number)
		if err != nil {
			return fmt.Errorf("flooding phone: %w", err)
		}
		ph.times = make([]int64, flight)
		c.flooders = append(c.flooders, ph)
		go func() { c.ended("flooding phone", number, ph.loop()) }()
	}
	return nil
}

// all is all phones.
func (c *crowd) all() []*phone { return append(c.phones[:len(c.phones):len(c.phones)], c.flooders...) }

// received is how many frames these have had.
func received(phones []*phone) (n uint64) {
	for _, ph := range phones {
		n += ph.taken.Load()
	}
	return n
}

// leave closes all connections, phones first.
func (c *crowd) leave() {
	c.ending.Store(true)
	for _, ph := range c.all() {
		if ph != nil {
			ph.conn.Close()
		}
	}
	for _, b := range c.binaries {
		if b != nil && b.peer != nil {
			b.conn.Close()
		}
	}
}

// echoServer is what a copier of bytes copies to: it sends back all it gets.
func echoServer() (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn = quick(conn)
			go func() {
				defer conn.Close()
				b := make([]byte, 64<<10)
				for {
					n, err := conn.Read(b)
					if err == nil {
						_, err = conn.Write(b[:n])
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln, nil
}
