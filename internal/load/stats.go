package load

import (
	"fmt"
	"math/bits"
	"slices"
	"time"
)

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
func MedianSample(all []Sample) Sample {
	med := func(f func(Sample) float64) float64 {
		v := make([]float64, len(all))
		for i, s := range all {
			v[i] = f(s)
		}
		return Median(v)
	}
	return Sample{
		Seconds:        med(func(s Sample) float64 { return s.Seconds }),
		Frames:         med(func(s Sample) float64 { return s.Frames }),
		PerSecond:      med(func(s Sample) float64 { return s.PerSecond }),
		P50:            med(func(s Sample) float64 { return s.P50 }),
		P99:            med(func(s Sample) float64 { return s.P99 }),
		CPU:            med(func(s Sample) float64 { return s.CPU }),
		CPUPerFrame:    med(func(s Sample) float64 { return s.CPUPerFrame }),
		GeneratorCPU:   med(func(s Sample) float64 { return s.GeneratorCPU }),
		FloodPerSecond: med(func(s Sample) float64 { return s.FloodPerSecond }),
	}
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
