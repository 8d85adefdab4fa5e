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
	besideTable(w, r.Alone, "beside the flood", r.Beside)
	fmt.Fprintf(w, "  %-20s %12.0f\n", "the flood itself", r.Beside.FloodPerSecond)
}

// Run is called by kong.
func (c *floodCommand) Run(e *env) error {
	if err := c.check(1, 1); err != nil {
		return err
	}
	if c.Flooders < 1 || c.Flood < 1 || c.Flood > 100_000 {
		return usagef("--flooders must be 1 or more, --flood from 1 to 100000")
	}
	r := &floodReport{Phones: c.Phones, Flooders: c.Flooders, Flood: c.Flood}
	var err error
	r.Alone, r.Beside, err = c.beside(e, c.Flooders, "beside the flood", func(crowd *crowd) (func(), error) {
		return func() {}, crowd.addFlooders(c.Flooders, c.Flood)
	})
	if err != nil {
		return err
	}
	return e.print(c.JSON, r)
}
