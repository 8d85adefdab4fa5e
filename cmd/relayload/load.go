package main

import (
	"fmt"
	"io"
	"time"
)

// Sizes of the buffers that peers read into. A busy peer reads many frames with
// one system call. Idle peers are numerous, so that each gets a small buffer.
const (
	busyBuffer  = 64 << 10
	smallBuffer = 4 << 10
	idleBuffer  = 512
)

// report is the result of echo and fanout.
type report struct {
	Mode     string `json:"mode"`
	Binaries int    `json:"binaries"`
	Phones   int    `json:"phones_per_binary"`
	Size     int    `json:"frame_bytes"`
	Flight   int    `json:"in_flight_per_phone"`
	sample
}

func (r *report) table(w io.Writer) {
	fmt.Fprintf(w, "%s: %d binaries × %d phones, %d in flight per phone, frames of %d bytes, %.1f s\n",
		r.Mode, r.Binaries, r.Phones, r.Flight, r.Size, r.Seconds)
	fmt.Fprintf(w, "  frames forwarded    %14.0f per second, every byte verified\n", r.PerSecond)
	if r.P99 > 0 {
		fmt.Fprintf(w, "  round trips         %14.0f per second\n", r.PerSecond/2)
		fmt.Fprintf(w, "  round trip time     %14.0f µs median, %.0f µs p99\n", r.P50, r.P99)
	}
	if r.CPU > 0 {
		fmt.Fprintf(w, "  the relay used      %14.2f processors, %.2f µs per frame\n", r.CPU, r.CPUPerFrame)
	}
	if r.GeneratorCPU > 0 {
		fmt.Fprintf(w, "  this program used   %14.2f processors\n", r.GeneratorCPU)
	}
}

// load has the flags that echo, fanout, slow and flood have in common.
type load struct {
	relayFlags
	Phones int           `default:"8" help:"Phones of each binary. The relay's default limit is 16."`
	Size   int           `default:"512" help:"Bytes of a frame."`
	For    time.Duration `default:"5s" help:"How long to measure."`
}

func (l *load) check(binaries, flight int) error {
	switch {
	case binaries < 1 || l.Phones < 1 || flight < 1:
		return usagef("--binaries, --phones and --flight must be 1 or more")
	case l.Size < minFrame || l.Size > 256<<10:
		return usagef("--size %d must be from %d to %d bytes, the limits of a phone's frame", l.Size, minFrame, 256<<10)
	}
	return nil
}

func (l *load) measure(e *env, mode string, s shape) error {
	if err := l.check(s.binaries, s.flight); err != nil {
		return err
	}
	t, err := l.target(s.connections(), busyBuffer, l.For)
	if err != nil {
		return err
	}
	c, err := connectFleet(t, s, e.progress.connecting)
	if err != nil {
		return hint(err)
	}
	defer c.close()
	got, err := c.run(e.ctx, l.For, l.PID, e.progress.running(mode))
	if err != nil {
		return err
	}
	return e.printReport(l.JSON, &report{mode, s.binaries, s.phones, s.size, s.flight, got})
}

type echoCommand struct {
	load
	Binaries int `default:"4" help:"Binaries."`
	Flight   int `default:"4" help:"Round trips of each phone that are in flight concurrently."`
}

// Run is called by kong.
func (c *echoCommand) Run(e *env) error {
	return c.measure(e, "echo", shape{binaries: c.Binaries, phones: c.Phones, size: c.Size, flight: c.Flight})
}

type fanoutCommand struct {
	load
	Binaries int `default:"1" help:"Binaries."`
	Flight   int `default:"64" help:"Maximum number of frames in flight to each phone."`
}

// Run is called by kong.
func (c *fanoutCommand) Run(e *env) error {
	return c.measure(e, "fanout", shape{binaries: c.Binaries, phones: c.Phones, size: c.Size, flight: c.Flight, fanout: true})
}
