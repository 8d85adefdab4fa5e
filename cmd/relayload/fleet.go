package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// shape describes a fleet: its connections and its traffic.
type shape struct {
	binaries, phones int // phones of each binary
	size             int // bytes of a frame
	flight           int // maximum frames in flight per phone
	fanout           bool
}

func (s shape) connections() int { return s.binaries * (1 + s.phones) }

// fleet is a set of connected binaries and their phones. Without fanout, phones
// send and binaries echo. With fanout, binaries send and phones only receive.
type fleet struct {
	shape
	to       *target
	binaries []*loadBinary
	phones   []*phone
	flooders []*phone // phones of the one binary that are not measured
	server   string   // the server-id, if the fleet has exactly one binary
	others   []int    // process ids of relays whose processor time is added

	stop   atomic.Bool
	ending atomic.Bool   // close has been called: later errors are ignored
	room   chan struct{} // signalled when a phone has received; wakes fanOut

	mu  sync.Mutex
	err error // the first failure
}

func (fl *fleet) fail(err error) {
	if fl.ending.Load() {
		return
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.err == nil {
		fl.err = err
	}
}

func (fl *fleet) failed() error {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return fl.err
}

// connectConcurrency is the number of binaries that connect concurrently.
const connectConcurrency = 32

// connectFleet connects a fleet to t. When it returns, every phone has made one
// round trip. It calls tell with its progress.
func connectFleet(t *target, s shape, tell func(done, of int)) (*fleet, error) {
	fl := &fleet{shape: s, to: t, room: make(chan struct{}, 1)}
	fl.binaries = make([]*loadBinary, s.binaries)
	fl.phones = make([]*phone, s.binaries*s.phones)
	var done atomic.Int64
	var wg sync.WaitGroup
	slots := make(chan struct{}, connectConcurrency)
	for i := range s.binaries {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			if fl.failed() != nil {
				return
			}
			if err := fl.join(i, &done); err != nil {
				fl.fail(err)
			}
		}()
		tell(int(done.Load()), s.connections())
	}
	wg.Wait()
	if err := fl.failed(); err != nil {
		fl.close()
		return nil, err
	}
	return fl, nil
}

// join connects binary i and its phones.
func (fl *fleet) join(i int, done *atomic.Int64) error {
	var id [8]byte
	rand.Read(id[:])
	server := "load-" + hex.EncodeToString(id[:])
	if len(fl.binaries) == 1 {
		fl.server = server
	}
	b := &loadBinary{ids: make(map[int]string)}
	if !fl.to.raw {
		p, err := fl.to.dial("/v1/server", server)
		if err != nil {
			return fmt.Errorf("binary %d: %w", i, err)
		}
		b.peer = p
		fl.binaries[i] = b
		go func() { fl.ended("binary", i, b.echo()) }()
	}
	done.Add(1)
	for j := range fl.shape.phones {
		n := i*fl.shape.phones + j
		ph, err := fl.phone(server, n)
		if err != nil {
			return fmt.Errorf("phone %d: %w", n, err)
		}
		b.mu.Lock()
		ph.connID = b.ids[n]
		b.mu.Unlock()
		fl.phones[n] = ph
		b.phones = append(b.phones, ph)
		go func() { fl.ended("phone", n, ph.loop()) }()
		done.Add(1)
	}
	return nil
}

func (fl *fleet) ended(kind string, n int, err error) { fl.fail(fmt.Errorf("%s %d: %w", kind, n, err)) }

// joinRetry bounds the retries of a phone that is closed with 4404. The relay
// answers a binary's upgrade shortly before the binary holds its slot.
const joinRetry = 5 * time.Second

// phone connects phone n and makes its first round trip.
func (fl *fleet) phone(server string, n int) (*phone, error) {
	to := fl.to
	if to.phones != nil {
		to = to.phones
	}
	for end := time.Now().Add(joinRetry); ; {
		p, err := to.dial("/v1/client", server)
		if err != nil {
			return nil, err
		}
		ph := &phone{peer: p, fleet: fl, number: n,
			checker: newFramer(fl.size, n), maker: newFramer(fl.size, n), times: make([]int64, max(fl.flight, 1))}
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

// addFlooders connects n more phones of the one binary. Each keeps flight round
// trips in flight during the next run.
func (fl *fleet) addFlooders(n, flight int) error {
	for range n {
		number := len(fl.phones) + len(fl.flooders)
		ph, err := fl.phone(fl.server, number)
		if err != nil {
			return fmt.Errorf("flooding phone: %w", err)
		}
		ph.times = make([]int64, flight)
		fl.flooders = append(fl.flooders, ph)
		go func() { fl.ended("flooding phone", number, ph.loop()) }()
	}
	return nil
}

// all returns the measured and the flooding phones.
func (fl *fleet) all() []*phone {
	return append(fl.phones[:len(fl.phones):len(fl.phones)], fl.flooders...)
}

// received returns the number of frames that phones have received.
func received(phones []*phone) (n uint64) {
	for _, ph := range phones {
		n += ph.taken.Load()
	}
	return n
}

// close closes all connections, phones first.
func (fl *fleet) close() {
	fl.ending.Store(true)
	for _, ph := range fl.all() {
		if ph != nil {
			ph.conn.Close()
		}
	}
	for _, b := range fl.binaries {
		if b != nil && b.peer != nil {
			b.conn.Close()
		}
	}
}
