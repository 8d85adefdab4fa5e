package load

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"
)

// Sample is the result of one run over a fleet.
type Sample struct {
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

// Run generates traffic for d and returns the measurements. No frame is in
// flight before and after the call. The sample includes the processor time of the
// processes pids; 0 is no process. Run calls tell about twice per second.
func (fl *Fleet) Run(ctx context.Context, d time.Duration, tell func(frames uint64, since time.Duration), pids ...int) (Sample, error) {
	fl.stop.Store(false)
	for _, ph := range fl.phones {
		ph.late = Latencies{}
	}
	var senders sync.WaitGroup
	if err := fl.send(&senders); err != nil {
		return Sample{}, err
	}
	Wait(ctx, warmUp)
	from := fl.Snapshot(pids...)
	for end := time.Now().Add(d); ctx.Err() == nil && fl.Failed() == nil; {
		left := time.Until(end)
		if left <= 0 {
			break
		}
		Wait(ctx, min(left, 500*time.Millisecond))
		tell(received(fl.phones)-from.frames, time.Since(from.At))
	}
	to := fl.Snapshot(pids...)
	fl.stop.Store(true)
	senders.Wait()
	if err := fl.quiesce(); err != nil {
		return Sample{}, err
	}
	if ctx.Err() != nil {
		return Sample{}, ErrInterrupted
	}
	return fl.sample(from, to), nil
}

// send begins to send. In a fan-out and at a fixed rate, tasks of senders send until
// fl.stop is set. Otherwise send posts the frames in flight, and each phone posts the
// next frame when an answer arrives.
func (fl *Fleet) send(senders *sync.WaitGroup) error {
	switch {
	case fl.Fanout:
		for i, b := range fl.binaries {
			senders.Go(func() {
				if err := b.fanOut(fl); err != nil {
					fl.Ended("binary", i, err)
				}
			})
		}
	case fl.Rate > 0:
		senders.Go(func() {
			if err := fl.pace(); err != nil {
				fl.Fail(fmt.Errorf("paced phones: %w", err))
			}
		})
	default:
		for _, ph := range fl.all() {
			now := Now()
			for range len(ph.times) {
				ph.post(now)
			}
			if err := ph.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxCatchUp is the number of frames that pace sends at one time if it is late. A relay
// can forward more frames than that with one system call.
const maxCatchUp = 4

// pace sends Rate frames per second, at equal intervals, until fl.stop is set. Frames
// that follow each other come from phones of different binaries. It omits a frame if
// Flight frames of its phone are in flight.
func (fl *Fleet) pace() error {
	tick, err := newTicker(time.Second / time.Duration(fl.Rate))
	if err != nil {
		return err
	}
	defer tick.close()
	for i := 0; !fl.stop.Load(); {
		n, err := tick.wait()
		if err != nil {
			return err
		}
		now := Now()
		for range min(n, maxCatchUp) {
			ph := fl.phones[i%fl.Binaries*fl.Shape.Phones+i/fl.Binaries%fl.Shape.Phones]
			i++
			if ph.sent-ph.taken.Load() >= uint64(len(ph.times)) {
				continue
			}
			ph.post(now)
			if err := ph.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// ErrInterrupted reports that the run was interrupted.
var ErrInterrupted = errors.New("interrupted")

// Wait waits for d, or until ctx ends.
func Wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Until calls check, and again after each interval, until missing is empty or err
// is not nil. It returns err. Until also returns an error with the text of missing
// after most, and ErrInterrupted when ctx ends.
func Until(ctx context.Context, interval, most time.Duration, check func() (missing string, err error)) error {
	for end := time.Now().Add(most); ; Wait(ctx, interval) {
		missing, err := check()
		switch {
		case err != nil || missing == "":
			return err
		case ctx.Err() != nil:
			return ErrInterrupted
		case time.Now().After(end):
			return fmt.Errorf("%s (waited %s)", missing, most)
		}
	}
}

// quiesce waits until every sent frame has been received. It returns an error if
// frames are missing after lastFrameTimeout.
func (fl *Fleet) quiesce() error {
	return Until(context.Background(), time.Millisecond, lastFrameTimeout, func() (string, error) {
		missing, number := uint64(0), 0
		for i, ph := range fl.all() {
			ph.mu.Lock()
			if ph.sent != ph.taken.Load() {
				missing, number = missing+ph.sent-ph.taken.Load(), i
			}
			ph.mu.Unlock()
		}
		if missing == 0 || fl.Failed() != nil {
			return "", fl.Failed()
		}
		return fmt.Sprintf("%d frames are lost: phone %d is one of those that have not received all", missing, number), nil
	})
}

// Counters holds cumulative counts at one point in time.
type Counters struct {
	At        time.Time
	frames    uint64
	flood     uint64
	Relay     time.Duration // processor time of the relay's processes
	generator time.Duration
}

// Snapshot returns the counts of now, with the processor time of the processes
// pids; 0 is no process.
func (fl *Fleet) Snapshot(pids ...int) Counters {
	m := Counters{At: time.Now(), frames: received(fl.phones), flood: received(fl.flooders)}
	for _, pid := range pids {
		if pid > 0 {
			used, _ := CPU(pid)
			m.Relay += used
		}
	}
	m.generator, _ = CPU(os.Getpid())
	return m
}

func (fl *Fleet) sample(from, to Counters) Sample {
	s := Sample{Seconds: to.At.Sub(from.At).Seconds(), Frames: float64(to.frames - from.frames)}
	if !fl.Fanout {
		s.Frames *= 2
		var all Latencies
		for _, ph := range fl.phones {
			all.Merge(&ph.late)
		}
		s.P50 = float64(all.Quantile(.5)) / 1e3
		s.P99 = float64(all.Quantile(.99)) / 1e3
	}
	s.PerSecond = s.Frames / s.Seconds
	s.FloodPerSecond = float64(to.flood-from.flood) / s.Seconds
	s.CPU = (to.Relay - from.Relay).Seconds() / s.Seconds
	s.GeneratorCPU = (to.generator - from.generator).Seconds() / s.Seconds
	if s.Frames > 0 {
		s.CPUPerFrame = (to.Relay - from.Relay).Seconds() * 1e6 / s.Frames
	}
	return s
}

// Latencies is a histogram of durations. Its buckets are 1/16 of a power of two
// wide: quantiles are within 3 %, memory is constant, and Add is cheap compared
// with a frame.
type Latencies struct {
	buckets [64 * 16]uint32
	n       uint64
}

// Count returns the number of durations.
func (l *Latencies) Count() int { return int(l.n) }

// Add adds one duration.
func (l *Latencies) Add(d time.Duration) {
	v := uint64(max(d, 1))
	e := bits.Len64(v)
	i := int(v)
	if e > 5 {
		i = (e-5)*16 + int(v>>(e-5))
	}
	l.buckets[min(i, len(l.buckets)-1)]++
	l.n++
}

// Merge adds the durations of o.
func (l *Latencies) Merge(o *Latencies) {
	for i, n := range o.buckets {
		l.buckets[i] += n
	}
	l.n += o.n
}

// Quantile returns the duration that a fraction q of all durations does not
// exceed.
func (l *Latencies) Quantile(q float64) time.Duration {
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

// MedianSample returns the median of each field separately.
func MedianSample(all []Sample) (median Sample) {
	into := reflect.ValueOf(&median).Elem()
	for i := range into.NumField() {
		v := make([]float64, len(all))
		for j, s := range all {
			v[j] = reflect.ValueOf(s).Field(i).Float()
		}
		into.Field(i).SetFloat(Median(v))
	}
	return median
}

// Median returns the median of v, or 0 if v is empty.
func Median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Ratio compares two candidates: the median over the rounds, and the extremes.
type Ratio struct{ Median, Least, Most float64 }

func (r Ratio) String() string { return fmt.Sprintf("%.2f (%.2f–%.2f)", r.Median, r.Least, r.Most) }
