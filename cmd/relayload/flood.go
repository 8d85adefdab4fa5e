package main

import (
	"fmt"
	"io"
)

type floodCommand struct {
	load
	Flooders int `default:"1" help:"Phones beside the others that flood the binary."`
	Flood    int `default:"2000" help:"Round trips that each of them has under way at once."`
}

// floodReport is how phones fare beside others that flood their binary.
type floodReport struct {
	Phones   int    `json:"phones"`
	Flooders int    `json:"flooding_phones"`
	Flood    int    `json:"in_flight_per_flooding_phone"`
	Alone    sample `json:"alone"`
	Beside   sample `json:"beside_flooding_phones"`
}

func (r *floodReport) table(w io.Writer) {
	fmt.Fprintf(w, "flood: %d phones of one binary with one round trip under way each, beside %d with %d each\n", r.Phones, r.Flooders, r.Flood)
	fmt.Fprintf(w, "  %-20s %14s %12s %12s\n", "", "round trips/s", "p50 µs", "p99 µs")
	fmt.Fprintf(w, "  %-20s %14.0f %12.0f %12.0f\n", "alone", r.Alone.PerSecond/2, r.Alone.P50, r.Alone.P99)
	fmt.Fprintf(w, "  %-20s %14.0f %12.0f %12.0f\n", "beside the flood", r.Beside.PerSecond/2, r.Beside.P50, r.Beside.P99)
	fmt.Fprintf(w, "  %-20s %14.0f\n", "the flood itself", r.Beside.FloodPerSecond)
}

// Run is called by kong.
func (c *floodCommand) Run(e *env) error {
	if err := c.check(1, 1); err != nil {
		return err
	}
	if c.Flooders < 1 || c.Flood < 1 || c.Flood > 100_000 {
		return usagef("--flooders must be 1 or more, --flood from 1 to 100000")
	}
	t, err := c.target(1+c.Phones+c.Flooders, busyBuffer, c.For)
	if err != nil {
		return err
	}
	crowd, err := gather(t, shape{binaries: 1, phones: c.Phones, size: c.Size, flight: 1}, e.tell.connecting)
	if err != nil {
		return hint(err)
	}
	defer crowd.leave()
	r := &floodReport{Phones: c.Phones, Flooders: c.Flooders, Flood: c.Flood}
	if r.Alone, err = crowd.run(e.ctx, c.For, c.PID, e.tell.running("alone")); err != nil {
		return err
	}
	if err := crowd.addFlooders(c.Flooders, c.Flood); err != nil {
		return hint(err)
	}
	if r.Beside, err = crowd.run(e.ctx, c.For, c.PID, e.tell.running("beside the flood")); err != nil {
		return err
	}
	return e.print(c.JSON, r)
}
