package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

type slowCommand struct {
	trafficFlags
	Slow int `default:"4" help:"Additional phones that never read."`
	Rate int `default:"5000" help:"Frames per second that the binary sends to each slow phone."`
}

// slowReport compares phones alone with phones of a binary that also has phones
// that do not read.
type slowReport struct {
	Phones   int            `json:"phones"`
	Slow     int            `json:"slow_phones"`
	Rate     int            `json:"frames_per_second_to_each_slow_phone"`
	Alone    load.Sample    `json:"alone"`
	WithSlow load.Sample    `json:"with_slow_phones"`
	Sent     int            `json:"frames_sent_to_slow_phones"`
	Ends     map[string]int `json:"how_slow_phones_ended"`
}

// Table implements load.Report.
func (r *slowReport) Table(w io.Writer) {
	fmt.Fprintf(w, "slow: %d phones of one binary with one round trip in flight each, and %d that do not read %d frames per second each\n",
		r.Phones, r.Slow, r.Rate)
	aloneTable(w, r.Alone, "with slow phones", r.WithSlow)
	for how, n := range r.Ends {
		fmt.Fprintf(w, "  %d slow: %s\n", n, how)
	}
}

func (c *slowCommand) plan() (plan, error) {
	if c.Slow < 1 || c.Rate < 1 {
		return plan{}, load.Usagef("--slow and --rate must be 1 or more")
	}
	return c.planFor(c.shape(1, 1, false), c.Slow)
}

func (c *slowCommand) run(d *driver) (load.Report, error) {
	r := &slowReport{Phones: c.Phones, Slow: c.Slow, Rate: c.Rate, Ends: make(map[string]int)}
	var err error
	r.Alone, r.WithSlow, err = c.aloneAndTogether(d, "with slow phones", func(fl *load.Fleet) (func(), error) {
		slow, err := fl.AddIdle(c.Slow) // only howEnded reads from them
		if err != nil {
			return func() {}, fmt.Errorf("slow phone: %w", err)
		}
		done := make(chan struct{})
		var feeder sync.WaitGroup
		feeder.Go(func() { r.Sent = feed(fl, slow, c.Rate, done) })
		return func() {
			close(done)
			feeder.Wait()
			for _, ph := range slow {
				r.Ends[howEnded(ph)]++
				ph.Close()
			}
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// feed sends frames to phones at rate frames per second each until done is closed.
// It returns the number of frames sent.
func feed(fl *load.Fleet, phones []*load.Phone, rate int, done chan struct{}) (sent int) {
	const every = 10 * time.Millisecond
	t := time.NewTicker(every)
	defer t.Stop()
	start := time.Now()
	var out, scratch []byte
	for {
		select {
		case <-done:
			return sent
		case <-t.C:
		}
		for due := int(time.Since(start).Seconds() * float64(rate*len(phones))); sent < due; sent++ {
			out, scratch = phones[sent%len(phones)].AppendNext(out, scratch)
		}
		if err := fl.WriteToPhones(out); err != nil {
			return sent
		}
		out = out[:0]
	}
}

// howEnded reads a slow phone's frames and describes how its connection ended.
func howEnded(ph *load.Phone) string {
	_ = ph.SetReadDeadline(time.Now().Add(time.Second))
	for {
		b, err := ph.Next()
		switch e, ok := errors.AsType[*wstest.CloseError](err); {
		case ok:
			return fmt.Sprintf("%v; all frames before it were correct", e)
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return "ended without a close frame"
		case err != nil:
			return "still connected; all frames were correct"
		}
		if err := ph.Check(b); err != nil {
			return err.Error()
		}
	}
}

type floodCommand struct {
	trafficFlags
	Flooders int `default:"1" help:"Additional phones that flood the binary."`
	Flood    int `default:"2000" help:"Round trips in flight of each flooding phone."`
}

// floodReport compares phones alone with phones of a binary that other phones
// flood.
type floodReport struct {
	Phones    int         `json:"phones"`
	Flooders  int         `json:"flooding_phones"`
	Flood     int         `json:"in_flight_per_flooding_phone"`
	Alone     load.Sample `json:"alone"`
	WithFlood load.Sample `json:"with_flooding_phones"`
}

// Table implements load.Report.
func (r *floodReport) Table(w io.Writer) {
	fmt.Fprintf(w, "flood: %d phones of one binary with one round trip in flight each, and %d with %d each\n", r.Phones, r.Flooders, r.Flood)
	aloneTable(w, r.Alone, "during the flood", r.WithFlood)
	fmt.Fprintf(w, "  %-20s %12.0f\n", "the flood itself", r.WithFlood.FloodPerSecond)
}

func (c *floodCommand) plan() (plan, error) {
	if c.Flooders < 1 || c.Flood < 1 || c.Flood > 100_000 {
		return plan{}, load.Usagef("--flooders must be 1 or more, --flood from 1 to 100000")
	}
	return c.planFor(c.shape(1, 1, false), c.Flooders)
}

func (c *floodCommand) run(d *driver) (load.Report, error) {
	r := &floodReport{Phones: c.Phones, Flooders: c.Flooders, Flood: c.Flood}
	var err error
	r.Alone, r.WithFlood, err = c.aloneAndTogether(d, "during the flood", func(fl *load.Fleet) (func(), error) {
		return func() {}, fl.AddFlooders(c.Flooders, c.Flood)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// aloneAndTogether measures phones of one binary with one round trip in flight
// each: first alone, then after add has connected more phones. It calls the function
// that add returns after the second measurement.
func (f *trafficFlags) aloneAndTogether(d *driver, name string, add func(*load.Fleet) (end func(), err error)) (alone, together load.Sample, err error) {
	fl, err := d.connect(f.shape(1, 1, false))
	if err != nil {
		return alone, together, err
	}
	defer fl.Close()
	if alone, err = d.measure(fl, "alone", f.For); err != nil {
		return alone, together, err
	}
	end, err := add(fl)
	defer end()
	if err != nil {
		return alone, together, err
	}
	together, err = d.measure(fl, name, f.For)
	return alone, together, err
}

// aloneTable prints the two samples.
func aloneTable(w io.Writer, alone load.Sample, name string, together load.Sample) {
	fmt.Fprintf(w, "  %-20s %12s %12s %12s\n", "", "round trips/s", "p50 µs", "p99 µs")
	fmt.Fprintf(w, "  %-20s %12.0f %12.0f %12.0f\n", "alone", alone.PerSecond/2, alone.P50, alone.P99)
	fmt.Fprintf(w, "  %-20s %12.0f %12.0f %12.0f\n", name, together.PerSecond/2, together.P50, together.P99)
}
