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
	Slow int `default:"4" help:"Phones beside the others that never read what the binary sends them."`
	Rate int `default:"5000" help:"Frames per second that the binary sends to each of them."`
}

// slowReport is how phones fare beside others that do not read.
type slowReport struct {
	Phones int            `json:"phones"`
	Slow   int            `json:"slow_phones"`
	Rate   int            `json:"frames_per_second_to_each_slow_phone"`
	Alone  sample         `json:"alone"`
	Beside sample         `json:"beside_slow_phones"`
	Sent   int            `json:"frames_sent_to_slow_phones"`
	Ends   map[string]int `json:"how_slow_phones_ended"`
}

func (r *slowReport) table(w io.Writer) {
	fmt.Fprintf(w, "slow: %d phones of one binary with one round trip under way each, beside %d that do not read %d frames per second each\n",
		r.Phones, r.Slow, r.Rate)
	fmt.Fprintf(w, "  %-20s %12s %12s %12s\n", "", "per second", "p50 µs", "p99 µs")
	for _, s := range []struct {
		name string
		sample
	}{{"alone", r.Alone}, {"beside the slow", r.Beside}} {
		fmt.Fprintf(w, "  %-20s %12.0f %12.0f %12.0f\n", s.name, s.PerSecond/2, s.P50, s.P99)
	}
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
	t, err := c.target(1+c.Phones+c.Slow, busyBuffer, c.For)
	if err != nil {
		return err
	}
	crowd, err := gather(t, shape{binaries: 1, phones: c.Phones, size: c.Size, flight: 1}, e.tell.connecting)
	if err != nil {
		return hint(err)
	}
	defer crowd.leave()
	r := &slowReport{Phones: c.Phones, Slow: c.Slow, Rate: c.Rate, Ends: make(map[string]int)}
	if r.Alone, err = crowd.run(e.ctx, c.For, c.PID, e.tell.running("alone")); err != nil {
		return err
	}
	b := crowd.binaries[0]
	var sluggards []*phone
	for i := range c.Slow {
		ph, err := crowd.phone(crowd.server, c.Phones+i)
		if err != nil {
			return hint(fmt.Errorf("slow phone %d: %w", i, err))
		}
		defer ph.conn.Close()
		b.mu.Lock()
		ph.connID = b.ids[c.Phones+i]
		b.mu.Unlock()
		sluggards = append(sluggards, ph)
	}
	done := make(chan struct{})
	var feeder sync.WaitGroup
	feeder.Go(func() { r.Sent = b.feed(sluggards, c.Rate, done) })
	r.Beside, err = crowd.run(e.ctx, c.For, c.PID, e.tell.running("beside the slow"))
	close(done)
	feeder.Wait()
	if err != nil {
		return err
	}
	for _, ph := range sluggards {
		r.Ends[ph.fate()]++
	}
	return e.print(c.JSON, r)
}

// feed sends to each of phones until done, and returns how many frames.
func (b *caller) feed(phones []*phone, rate int, done chan struct{}) (sent int) {
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
			envelope = append(append(append(envelope[:0], envelopeHead...), ph.connID...), envelopeMid...)
			envelope = append(append(envelope, ph.maker.frame(ph.sent)...), '}')
			out = appendMasked(out, opText, envelope)
			ph.sent++
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

// fate reads at last and says what became of a slow phone.
func (ph *phone) fate() string {
	_ = ph.conn.SetReadDeadline(time.Now().Add(time.Second))
	for {
		b, err := ph.next()
		switch e, ok := errors.AsType[*closedError](err); {
		case ok:
			return fmt.Sprintf("%v; all it had got before was in order", e)
		case errors.Is(err, io.EOF):
			return "cut off without a close"
		case err != nil:
			return "still connected; all it has got was in order"
		}
		if err := ph.checker.check(b, ph.got); err != nil {
			return err.Error()
		}
		ph.got++
	}
}
