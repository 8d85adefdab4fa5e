package main

import (
	"fmt"
	"io"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

// trafficReport is the result of echo and fanout.
type trafficReport struct {
	Mode     string `json:"mode"`
	Binaries int    `json:"binaries"`
	Phones   int    `json:"phones_per_binary"`
	Size     int    `json:"frame_bytes"`
	Flight   int    `json:"in_flight_per_phone"`
	load.Sample
}

// Table implements load.Report.
func (r *trafficReport) Table(w io.Writer) {
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

// trafficFlags are the flags that echo, fanout, slow and flood have in common.
type trafficFlags struct {
	relayFlags
	Phones int           `default:"8" help:"Phones of each binary. The relay's default limit is 16."`
	Size   int           `default:"512" help:"Bytes of a frame."`
	For    time.Duration `default:"5s" help:"How long to measure."`
}

// shape returns the fleet that the flags describe.
func (f *trafficFlags) shape(binaries, flight int, fanout bool) load.Shape {
	return load.Shape{Binaries: binaries, Phones: f.Phones, Size: f.Size, Flight: flight, Fanout: fanout}
}

// planFor plans a run of a fleet and of others more connections.
func (f *trafficFlags) planFor(s load.Shape, others int) (plan, error) {
	switch {
	case s.Binaries < 1 || s.Phones < 1 || s.Flight < 1:
		return plan{}, load.Usagef("--binaries, --phones and --flight must be 1 or more")
	case s.Size < load.MinFrame || s.Size > 256<<10:
		return plan{}, load.Usagef("--size %d must be from %d to %d bytes, the limits of a phone's frame", s.Size, load.MinFrame, 256<<10)
	}
	return plan{relay: &f.relayFlags, conns: s.Connections() + others, buffer: load.BusyBuffer, length: f.For, json: f.JSON}, nil
}

// traffic connects a fleet and measures it.
func (f *trafficFlags) traffic(d *driver, mode string, s load.Shape) (load.Report, error) {
	fl, err := d.connect(s)
	if err != nil {
		return nil, err
	}
	defer fl.Close()
	got, err := d.measure(fl, mode, f.For)
	if err != nil {
		return nil, err
	}
	return &trafficReport{mode, s.Binaries, s.Phones, s.Size, s.Flight, got}, nil
}

type echoCommand struct {
	trafficFlags
	Binaries int `default:"4" help:"Binaries."`
	Flight   int `default:"4" help:"Round trips of each phone that are in flight concurrently."`
	Rate     int `default:"0" help:"Round trips per second of all phones together, at equal intervals; 0: as many as --flight allows."`
}

func (c *echoCommand) plan() (plan, error) {
	if c.Rate < 0 || c.Rate > maxRate {
		return plan{}, load.Usagef("--rate %d must be from 0 to %d", c.Rate, maxRate)
	}
	return c.planFor(c.shape(c.Binaries, c.Flight, false), 0)
}

// maxRate is a rate with one interval of the timer's resolution.
const maxRate = 1_000_000

func (c *echoCommand) run(d *driver) (load.Report, error) {
	s := c.shape(c.Binaries, c.Flight, false)
	s.Rate = c.Rate
	return c.traffic(d, "echo", s)
}

type fanoutCommand struct {
	trafficFlags
	Binaries int `default:"1" help:"Binaries."`
	Flight   int `default:"64" help:"Maximum number of frames in flight to each phone."`
}

func (c *fanoutCommand) plan() (plan, error) {
	return c.planFor(c.shape(c.Binaries, c.Flight, true), 0)
}

func (c *fanoutCommand) run(d *driver) (load.Report, error) {
	return c.traffic(d, "fanout", c.shape(c.Binaries, c.Flight, true))
}
