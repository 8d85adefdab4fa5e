package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

type slowCommand struct {
	load
	Slow int `default:"4" help:"Additional phones that never read."`
	Rate int `default:"5000" help:"Frames per second that the binary sends to each slow phone."`
}

// slowReport compares phones alone with phones of a binary that also has phones
// that do not read.
type slowReport struct {
	Phones   int            `json:"phones"`
	Slow     int            `json:"slow_phones"`
	Rate     int            `json:"frames_per_second_to_each_slow_phone"`
	Alone    sample         `json:"alone"`
	WithSlow sample         `json:"beside_slow_phones"`
	Sent     int            `json:"frames_sent_to_slow_phones"`
	Ends     map[string]int `json:"how_slow_phones_ended"`
}

func (r *slowReport) table(w io.Writer) {
	fmt.Fprintf(w, "slow: %d phones of one binary with one round trip in flight each, and %d that do not read %d frames per second each\n",
		r.Phones, r.Slow, r.Rate)
	aloneTable(w, r.Alone, "with slow phones", r.WithSlow)
	for how, n := range r.Ends {
		fmt.Fprintf(w, "  %d slow: %s\n", n, how)
	}
}

// Run is called by kong.
func (c *slowCommand) Run(e *env) error {
	if err := c.check(1, 1); err != nil {
		return err
	}
	if c.Slow < 1 || c.Rate < 1 {
		return usagef("--slow and --rate must be 1 or more")
	}
	r := &slowReport{Phones: c.Phones, Slow: c.Slow, Rate: c.Rate, Ends: make(map[string]int)}
	var err error
	r.Alone, r.WithSlow, err = c.aloneAndTogether(e, c.Slow, "with slow phones", func(fl *fleet) (func(), error) {
		slow, err := fl.connectSlow(c.Slow)
		if err != nil {
			return func() {}, err
		}
		done := make(chan struct{})
		var feeder sync.WaitGroup
		feeder.Go(func() { r.Sent = fl.binaries[0].feed(slow, c.Rate, done) })
		return func() {
			close(done)
			feeder.Wait()
			for _, ph := range slow {
				r.Ends[ph.howEnded()]++
				ph.conn.Close()
			}
		}, nil
	})
	if err != nil {
		return err
	}
	return e.printReport(c.JSON, r)
}

// connectSlow connects n more phones of the one binary. Only howEnded reads from
// them.
func (fl *fleet) connectSlow(n int) (all []*phone, err error) {
	b := fl.binaries[0]
	for range n {
		number := len(fl.phones) + len(all)
		ph, err := fl.phone(fl.server, number)
		if err != nil {
			return all, fmt.Errorf("slow phone: %w", err)
		}
		b.mu.Lock()
		ph.connID = b.ids[number]
		b.mu.Unlock()
		all = append(all, ph)
	}
	return all, nil
}

// feed sends frames to phones at rate frames per second each until done is
// closed. It returns the number of frames sent.
func (b *loadBinary) feed(phones []*phone, rate int, done chan struct{}) (sent int) {
	const every = 10 * time.Millisecond
	t := time.NewTicker(every)
	defer t.Stop()
	start := time.Now()
	var out, envelope []byte
	for {
		select {
		case <-done:
			return sent
		case <-t.C:
		}
		for due := int(time.Since(start).Seconds() * float64(rate*len(phones))); sent < due; sent++ {
			ph := phones[sent%len(phones)]
			envelope = ph.appendNext(envelope[:0])
			out = appendMasked(out, opText, envelope)
		}
		b.peer.mu.Lock()
		_, err := b.conn.Write(out)
		b.peer.mu.Unlock()
		if err != nil {
			return sent
		}
		out = out[:0]
	}
}

// howEnded reads a slow phone's frames and describes how its connection ended.
func (ph *phone) howEnded() string {
	_ = ph.conn.SetReadDeadline(time.Now().Add(time.Second))
	for {
		b, err := ph.next()
		switch e, ok := errors.AsType[*closedError](err); {
		case ok:
			return fmt.Sprintf("%v; all frames before it were correct", e)
		case errors.Is(err, io.EOF):
			return "ended without a close frame"
		case err != nil:
			return "still connected; all frames were correct"
		}
		if err := ph.checker.check(b, ph.got); err != nil {
			return err.Error()
		}
		ph.got++
	}
}

type floodCommand struct {
	load
	Flooders int `default:"1" help:"Additional phones that flood the binary."`
	Flood    int `default:"2000" help:"Round trips in flight of each flooding phone."`
}

// floodReport compares phones alone with phones of a binary that other phones
// flood.
type floodReport struct {
	Phones    int    `json:"phones"`
	Flooders  int    `json:"flooding_phones"`
	Flood     int    `json:"in_flight_per_flooding_phone"`
	Alone     sample `json:"alone"`
	WithFlood sample `json:"beside_flooding_phones"`
}

func (r *floodReport) table(w io.Writer) {
	fmt.Fprintf(w, "flood: %d phones of one binary with one round trip in flight each, and %d with %d each\n", r.Phones, r.Flooders, r.Flood)
	aloneTable(w, r.Alone, "during the flood", r.WithFlood)
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
	r.Alone, r.WithFlood, err = c.aloneAndTogether(e, c.Flooders, "during the flood", func(fl *fleet) (func(), error) {
		return func() {}, fl.addFlooders(c.Flooders, c.Flood)
	})
	if err != nil {
		return err
	}
	return e.printReport(c.JSON, r)
}

// aloneAndTogether measures phones of one binary with one round trip in flight
// each: first alone, then after add has connected others more phones. It calls
// the function that add returns after the second measurement.
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

// aloneTable prints the two samples.
func aloneTable(w io.Writer, alone sample, name string, together sample) {
	fmt.Fprintf(w, "  %-20s %12s %12s %12s\n", "", "round trips/s", "p50 µs", "p99 µs")
	fmt.Fprintf(w, "  %-20s %12.0f %12.0f %12.0f\n", "alone", alone.PerSecond/2, alone.P50, alone.P99)
	fmt.Fprintf(w, "  %-20s %12.0f %12.0f %12.0f\n", name, together.PerSecond/2, together.P50, together.P99)
}
