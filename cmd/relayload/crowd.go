package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
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
	others   []int    // relays of the same cluster: their processor time counts too

	stop   atomic.Bool
	ending atomic.Bool   // the connections are being closed: errors are none
	room   chan struct{} // a phone took something; for the senders of a fan-out

	mu  sync.Mutex
	err error // the first
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
	to := c.to
	if to.phones != nil {
		to = to.phones
	}
	for end := time.Now().Add(joinPatience); ; {
		p, err := to.dial("/v1/client", server)
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
