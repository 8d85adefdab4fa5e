package load

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// Shape describes a fleet: its connections and its traffic.
type Shape struct {
	Binaries, Phones int // phones of each binary
	Size             int // bytes of a frame
	Flight           int // maximum frames in flight per phone
	Rate             int // round trips per second of all phones together; 0: as many as Flight allows
	Fanout           bool
}

// Connections returns the number of connections of the fleet.
func (s Shape) Connections() int { return s.Binaries * (1 + s.Phones) }

// Fleet is a set of connected binaries and their phones. Without fanout, phones
// send and binaries echo. With fanout, binaries send and phones only receive.
type Fleet struct {
	Shape

	to       *Target
	binaries []*Binary
	phones   []*Phone
	flooders []*Phone // phones of the one binary that are not measured
	server   string   // the server-id, if the fleet has exactly one binary

	stop   atomic.Bool
	ending atomic.Bool   // Close has been called: later errors are ignored
	room   chan struct{} // signalled when a phone has received; wakes fanOut

	mu  sync.Mutex
	err error // the first failure
}

// Fail records err if it is the first failure.
func (fl *Fleet) Fail(err error) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.err == nil && !fl.ending.Load() {
		fl.err = err
	}
}

// Failed returns the first failure, or nil.
func (fl *Fleet) Failed() error {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	return fl.err
}

// NewFleet returns a fleet without connections at t.
func NewFleet(t *Target, s Shape) *Fleet {
	return &Fleet{Shape: s, to: t, room: make(chan struct{}, 1)}
}

// connectConcurrency is the number of binaries that connect concurrently.
const connectConcurrency = 32

// Connect connects a fleet to t. When it returns, every phone has made one
// round trip. It calls tell with its progress.
func Connect(t *Target, s Shape, tell func(done, of int)) (*Fleet, error) {
	fl := NewFleet(t, s)
	fl.binaries = make([]*Binary, s.Binaries)
	fl.phones = make([]*Phone, s.Binaries*s.Phones)
	var done atomic.Int64
	var joining errgroup.Group
	joining.SetLimit(connectConcurrency)
	for i := range s.Binaries {
		joining.Go(func() error {
			if fl.Failed() == nil {
				fl.Fail(fl.join(i, &done))
			}
			return nil
		})
		tell(int(done.Load()), s.Connections())
	}
	joining.Wait()
	if err := fl.Failed(); err != nil {
		fl.Close()
		return nil, err
	}
	return fl, nil
}

// join connects binary i and its phones.
func (fl *Fleet) join(i int, done *atomic.Int64) error {
	var id [8]byte
	rand.Read(id[:])
	server := "load-" + hex.EncodeToString(id[:])
	if len(fl.binaries) == 1 {
		fl.server = server
	}
	b := new(Binary)
	if !fl.to.Raw {
		var err error
		if b, err = fl.to.Binary(server); err != nil {
			return fmt.Errorf("binary %d: %w", i, err)
		}
		fl.binaries[i] = b
		go func() { fl.Ended("binary", i, b.Echo()) }()
	}
	done.Add(1)
	for j := range fl.Shape.Phones {
		n := i*fl.Shape.Phones + j
		ph, err := fl.Phone(server, n)
		if err != nil {
			return fmt.Errorf("phone %d: %w", n, err)
		}
		ph.ConnID = b.ConnID(n)
		fl.phones[n] = ph
		b.phones = append(b.phones, ph)
		go func() { fl.Ended("phone", n, ph.loop()) }()
		done.Add(1)
	}
	return nil
}

// Ended records the end of a connection as a failure. After Close it does nothing.
func (fl *Fleet) Ended(kind string, n int, err error) { fl.Fail(fmt.Errorf("%s %d: %w", kind, n, err)) }

// joinRetry bounds the retries of a phone that is closed with 4404. The relay
// answers a binary's upgrade shortly before the binary holds its slot.
const joinRetry = 5 * time.Second

// Phone connects phone n and makes its first round trip.
func (fl *Fleet) Phone(server string, n int) (*Phone, error) {
	to := fl.to
	if to.Phones != nil {
		to = to.Phones
	}
	for end := time.Now().Add(joinRetry); ; {
		p, err := to.Dial("/v1/client", server)
		if err != nil {
			return nil, err
		}
		ph := fl.NewPhone(p, n)
		err = ph.RoundTrip()
		if err == nil {
			return ph, nil
		}
		p.Close()
		if !wstest.IsClose(err, 4404) || time.Now().After(end) {
			return nil, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// AddFlooders connects n more phones of the one binary. Each keeps flight round
// trips in flight during the next run.
func (fl *Fleet) AddFlooders(n, flight int) error {
	for range n {
		number := len(fl.phones) + len(fl.flooders)
		ph, err := fl.Phone(fl.server, number)
		if err != nil {
			return fmt.Errorf("flooding phone: %w", err)
		}
		ph.times = make([]int64, flight)
		fl.flooders = append(fl.flooders, ph)
		go func() { fl.Ended("flooding phone", number, ph.loop()) }()
	}
	return nil
}

// all returns the measured and the flooding phones.
func (fl *Fleet) all() []*Phone {
	return append(fl.phones[:len(fl.phones):len(fl.phones)], fl.flooders...)
}

// AddIdle connects n more phones of the one binary. The fleet does not read from
// them, and the caller closes them.
func (fl *Fleet) AddIdle(n int) (all []*Phone, err error) {
	for range n {
		number := len(fl.phones) + len(all)
		ph, err := fl.Phone(fl.server, number)
		if err != nil {
			return all, err
		}
		ph.ConnID = fl.binaries[0].ConnID(number)
		all = append(all, ph)
	}
	return all, nil
}

// AddBinary adds an echoing binary with the given server-id.
func (fl *Fleet) AddBinary(server string) error {
	b, err := fl.to.Binary(server)
	if err != nil {
		return err
	}
	fl.binaries = append(fl.binaries, b)
	number := len(fl.binaries) - 1
	go func() { fl.Ended("binary", number, b.Echo()) }()
	return nil
}

// WriteToPhones writes frames of AppendNext as the one binary.
func (fl *Fleet) WriteToPhones(out []byte) error {
	_, err := fl.binaries[0].Write(out)
	return err
}

// received returns the number of frames that phones have received.
func received(phones []*Phone) (n uint64) {
	for _, ph := range phones {
		n += ph.taken.Load()
	}
	return n
}

// Close closes all connections, phones first.
func (fl *Fleet) Close() {
	fl.ending.Store(true)
	for _, ph := range fl.all() {
		if ph != nil {
			ph.Close()
		}
	}
	for _, b := range fl.binaries {
		if b != nil {
			b.Close()
		}
	}
}
