package main

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"
)

// sample is the result of one run over a fleet.
type sample struct {
	Seconds      float64 `json:"seconds"`
	Frames       float64 `json:"frames"` // read and written by the relay; a round trip has two
	PerSecond    float64 `json:"frames_per_second"`
	P50          float64 `json:"p50_us,omitempty"` // of a round trip
	P99          float64 `json:"p99_us,omitempty"`
	CPU          float64 `json:"relay_cpu"`               // processors used; 0: unknown
	CPUPerFrame  float64 `json:"relay_cpu_us_per_frame"`  // 0: unknown
	GeneratorCPU float64 `json:"generator_cpu,omitempty"` // processors used by this program

	// FloodPerSecond counts the round trips of flooding phones. The other
	// fields do not include them.
	FloodPerSecond float64 `json:"flood_round_trips_per_second,omitempty"`
}

// warmUp is the duration of the traffic before the measurement begins.
const warmUp = 200 * time.Millisecond

// lastFrameTimeout bounds the wait for the frames in flight at the end of a run.
const lastFrameTimeout = 10 * time.Second

// run generates traffic for d and returns the measurements. No frame is in
// flight before and after the call. If pid is not 0, the sample includes the
// processor time of that process. run calls tell about twice per second.
func (fl *fleet) run(ctx context.Context, d time.Duration, pid int, tell func(frames uint64, since time.Duration)) (sample, error) {
	fl.stop.Store(false)
	for _, ph := range fl.phones {
		ph.late = latencies{}
	}
	var senders sync.WaitGroup
	if fl.fanout {
		for i, b := range fl.binaries {
			senders.Add(1)
			go func() {
				defer senders.Done()
				if err := b.fanOut(fl); err != nil {
					fl.ended("binary", i, err)
				}
			}()
		}
	} else {
		for _, ph := range fl.all() {
			now := clockNow()
			for range len(ph.times) {
				ph.post(now)
			}
			ph.mu.Lock()
			err := ph.flushLocked()
			ph.mu.Unlock()
			if err != nil {
				return sample{}, err
			}
		}
	}
	wait(ctx, warmUp)
	from := fl.snapshot(pid)
	for end := time.Now().Add(d); ctx.Err() == nil && fl.failed() == nil; {
		left := time.Until(end)
		if left <= 0 {
			break
		}
		wait(ctx, min(left, 500*time.Millisecond))
		tell(received(fl.phones)-from.frames, time.Since(from.at))
	}
	to := fl.snapshot(pid)
	fl.stop.Store(true)
	senders.Wait()
	if err := fl.quiesce(); err != nil {
		return sample{}, err
	}
	if err := ctx.Err(); err != nil {
		return sample{}, errInterrupted
	}
	return fl.sample(from, to), nil
}

var errInterrupted = errors.New("interrupted")

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// quiesce waits until every sent frame has been received. It returns an error if
// frames are missing after lastFrameTimeout.
func (fl *fleet) quiesce() error {
	for end := time.Now().Add(lastFrameTimeout); ; time.Sleep(time.Millisecond) {
		if err := fl.failed(); err != nil {
			return err
		}
		missing, number := uint64(0), 0
		for i, ph := range fl.all() {
			ph.mu.Lock()
			if ph.sent != ph.taken.Load() {
				missing, number = missing+ph.sent-ph.taken.Load(), i
			}
			ph.mu.Unlock()
		}
		if missing == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d frames are lost: not received %s after the last was sent (phone %d is one of those affected)", missing, lastFrameTimeout, number)
		}
	}
}

// counters holds cumulative counts at one point in time.
type counters struct {
	at        time.Time
	frames    uint64
	flood     uint64
	relay     time.Duration
	generator time.Duration
}

func (fl *fleet) snapshot(pid int) counters {
	m := counters{at: time.Now(), frames: received(fl.phones), flood: received(fl.flooders)}
	if pid > 0 {
		m.relay, _ = cpuOf(pid)
	}
	for _, other := range fl.others {
		used, _ := cpuOf(other)
		m.relay += used
	}
	m.generator, _ = cpuOf(self)
	return m
}

func (fl *fleet) sample(from, to counters) sample {
	s := sample{Seconds: to.at.Sub(from.at).Seconds(), Frames: float64(to.frames - from.frames)}
	if !fl.fanout {
		s.Frames *= 2
		var all latencies
		for _, ph := range fl.phones {
			all.merge(&ph.late)
		}
		s.P50 = float64(all.quantile(.5)) / 1e3
		s.P99 = float64(all.quantile(.99)) / 1e3
	}
	s.PerSecond = s.Frames / s.Seconds
	s.FloodPerSecond = float64(to.flood-from.flood) / s.Seconds
	s.CPU = (to.relay - from.relay).Seconds() / s.Seconds
	s.GeneratorCPU = (to.generator - from.generator).Seconds() / s.Seconds
	if s.Frames > 0 {
		s.CPUPerFrame = (to.relay - from.relay).Seconds() * 1e6 / s.Frames
	}
	return s
}

// latencies is a histogram of durations. Its buckets are 1/16 of a power of two
// wide: quantiles are within 3 %, memory is constant, and add is cheap compared
// with a frame.
type latencies struct {
	buckets [64 * 16]uint32
	n       uint64
}

func (l *latencies) add(d time.Duration) {
	v := uint64(max(d, 1))
	e := bits.Len64(v)
	i := int(v)
	if e > 5 {
		i = (e-5)*16 + int(v>>(e-5))
	}
	l.buckets[min(i, len(l.buckets)-1)]++
	l.n++
}

func (l *latencies) merge(o *latencies) {
	for i, n := range o.buckets {
		l.buckets[i] += n
	}
	l.n += o.n
}

// quantile returns the duration that a fraction q of all durations does not
// exceed.
func (l *latencies) quantile(q float64) time.Duration {
	left := uint64(q * float64(l.n))
	for i, n := range l.buckets {
		if uint64(n) > left {
			if i < 32 {
				return time.Duration(i)
			}
			e := i/16 - 1
			return time.Duration((float64(i-e*16) + 0.5) * float64(uint64(1)<<e))
		}
		left -= uint64(n)
	}
	return 0
}
