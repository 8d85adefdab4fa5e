package main

import (
	"fmt"
	"io"
)

// aloneAndTogether measures phones of one binary, one round trip under way each, first
// alone and then aloneAndTogether what add adds: others phones more. What add returns
// ends that, after the second measurement.
func (l *load) aloneAndTogether(e *env, others int, name string, add func(*fleet) (end func(), err error)) (alone, together sample, err error) {
	t, err := l.target(1+l.Phones+others, busyBuffer, l.For)
	if err != nil {
		return alone, together, err
	}
	c, err := connectFleet(t, shape{binaries: 1, phones: l.Phones, size: l.Size, flight: 1}, e.progress.connecting)
	if err != nil {
		return alone, together, hint(err)
	}
	defer c.close()
	if alone, err = c.run(e.ctx, l.For, l.PID, e.progress.running("alone")); err != nil {
		return alone, together, err
	}
	end, err := add(c)
	defer end()
	if err != nil {
		return alone, together, hint(err)
	}
	together, err = c.run(e.ctx, l.For, l.PID, e.progress.running(name))
	return alone, together, err
}

// aloneTable shows both measurements. A sample counts frames; a round trip is
// two.
func aloneTable(w io.Writer, alone sample, name string, beside sample) {
	fmt.Fprintf(w, "  %-20s %12s %12s %12s\n", "", "round trips/s", "p50 µs", "p99 µs")
	fmt.Fprintf(w, "  %-20s %12.0f %12.0f %12.0f\n", "alone", alone.PerSecond/2, alone.P50, alone.P99)
	fmt.Fprintf(w, "  %-20s %12.0f %12.0f %12.0f\n", name, beside.PerSecond/2, beside.P50, beside.P99)
}
