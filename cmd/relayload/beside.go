package main

import (
	"fmt"
	"io"
)

// beside measures phones of one binary, one round trip under way each, first
// alone and then beside what add adds: others phones more. What add returns
// ends that, after the second measurement.
func (l *load) beside(e *env, others int, name string, add func(*crowd) (end func(), err error)) (alone, beside sample, err error) {
	t, err := l.target(1+l.Phones+others, busyBuffer, l.For)
	if err != nil {
		return alone, beside, err
	}
	c, err := gather(t, shape{binaries: 1, phones: l.Phones, size: l.Size, flight: 1}, e.tell.connecting)
	if err != nil {
		return alone, beside, hint(err)
	}
	defer c.leave()
	if alone, err = c.run(e.ctx, l.For, l.PID, e.tell.running("alone")); err != nil {
		return alone, beside, err
	}
	end, err := add(c)
	defer end()
	if err != nil {
		return alone, beside, hint(err)
	}
	beside, err = c.run(e.ctx, l.For, l.PID, e.tell.running(name))
	return alone, beside, err
}

// besideTable shows both measurements. A sample counts frames; a round trip is
// two.
func besideTable(w io.Writer, alone sample, name string, beside sample) {
	fmt.Fprintf(w, "  %-20s %12s %12s %12s\n", "", "round trips/s", "p50 µs", "p99 µs")
	fmt.Fprintf(w, "  %-20s %12.0f %12.0f %12.0f\n", "alone", alone.PerSecond/2, alone.P50, alone.P99)
	fmt.Fprintf(w, "  %-20s %12.0f %12.0f %12.0f\n", name, beside.PerSecond/2, beside.P50, beside.P99)
}
