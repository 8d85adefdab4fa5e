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
	Phones    int    `json:"phones"`
	Flooders  int    `json:"flooding_phones"`
	Flood     int    `json:"in_flight_per_flooding_phone"`
	Alone     sample `json:"alone"`
	WithFlood sample `json:"beside_flooding_phones"`
}

func (r *floodReport) table(w io.Writer) {
	fmt.Fprintf(w, "flood: %d phones of one binary with one round trip under way each, beside %d with %d each\n", r.Phones, r.Flooders, r.Flood)
	aloneTable(w, r.Alone, "beside the flood", r.WithFlood)
	fmt.Fprintf(w, "  %-20s %12.0f\n", "the flood itself", r.WithFlood.FloodPerSecond)
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
	r.Alone, r.WithFlood, err = c.aloneAndTogether(e, c.Flooders, "beside the flood", func(fl *fleet) (func(), error) {
		return func() {}, fl.addFlooders(c.Flooders, c.Flood)
	})
	if err != nil {
		return err
	}
	return e.printReport(c.JSON, r)
}
