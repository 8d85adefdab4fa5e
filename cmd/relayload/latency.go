package main

import (
	"math/bits"
	"time"
)

// latencies counts durations in buckets that are 1/16 wide: quantiles within
// 3 %, in constant memory, and counting costs nothing beside a frame.
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

// quantile is the duration that a share q of all does not exceed.
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
