package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

type benchCommand struct {
	Relay   string        `default:"" help:"The relay's program; the one beside this by default."`
	Before  string        `placeholder:"PROGRAM" help:"Another build of the relay, to compare with."`
	Rounds  int           `default:"5" help:"Rounds; what is compared takes turns in each. Medians are printed."`
	For     time.Duration `default:"1s" help:"How long each turn is."`
	Only    string        `default:"" placeholder:"REGEXP" help:"Rows to run, by name: ${rows}."`
	Conns   int           `default:"10000" help:"Connections of the rows about many."`
	IdleFor time.Duration `name:"beat" default:"33s" help:"How long heartbeats are watched; one comes every 30s."`
	JSON    bool          `name:"json" help:"Print JSON, not a table."`
}

// work is one row about traffic, with what issue 5 asks of the relay. 0: nothing.
type work struct {
	Name  string
	shape shape
	tls   bool

	baseline, baselineStretch float64 // times the baseline
	spliceStretch             float64 // times the splice
	p99                       float64 // of the baseline's, at most
}

// splices reports whether the copier of bytes can take part: it joins one to
// one, and without TLS.
func (w work) splices() bool { return !w.tls && !w.shape.fanout }

var works = []work{
	{Name: "round trips", shape: shape{binaries: 4, phones: 8, size: 512, flight: 4}, baseline: 8, spliceStretch: 1.2},
	{Name: "one binary to 16 phones", shape: shape{binaries: 1, phones: 16, size: 512, flight: 64, fanout: true}, baseline: 15, baselineStretch: 25},
	{Name: "8 KiB frames", shape: shape{binaries: 4, phones: 8, size: 8 << 10, flight: 4}, baseline: 7, baselineStretch: 10},
	{Name: "one in flight", shape: shape{binaries: 4, phones: 8, size: 512, flight: 1}, baseline: 2.3, spliceStretch: 1.5, p99: .5},
	{Name: "tls: round trips", shape: shape{binaries: 4, phones: 8, size: 512, flight: 4}, tls: true},
	{Name: "tls: one binary to 16 phones", shape: shape{binaries: 1, phones: 16, size: 512, flight: 64, fanout: true}, tls: true},
}

// The other rows.
const (
	rowFlood   = "flood"
	rowIdle    = "idle"
	rowTLSIdle = "tls: idle"
	rowAmong   = "growth: among idle"
	rowBusy    = "growth: all busy"
)

// benchRows names them all.
func benchRows() (all []string) {
	for _, w := range works {
		all = append(all, w.Name)
	}
	return append(all, rowFlood, rowIdle, rowTLSIdle, rowAmong, rowBusy)
}

// Run is called by kong. It fails if a frame was wrong, lost or not carried;
// a goal that is missed is told in the table.
func (c *benchCommand) Run(e *env) error {
	only, err := regexp.Compile(c.Only)
	switch {
	case err != nil:
		return usagef("--only: %v", err)
	case !slices.ContainsFunc(benchRows(), only.MatchString):
		return usagef("--only %q: there is no such row; there are %s", c.Only, strings.Join(benchRows(), ", "))
	case c.Rounds < 1 || c.For < 100*time.Millisecond || c.For > time.Minute || c.Conns < 100 || c.IdleFor < time.Second || c.IdleFor > maxRun:
		return usagef("--rounds must be 1 or more, --for from 100ms to 1m, --conns 100 or more, --beat 1s or more")
	}
	if err := enoughFiles(c.Conns*9/5 + 1000); err != nil {
		return err
	}
	me, err := os.Executable()
	if err != nil {
		return err
	}
	if c.Relay == "" {
		c.Relay = filepath.Join(filepath.Dir(me), "pyrycode-relay")
	}
	for _, program := range []string{c.Relay, c.Before} {
		if _, err := os.Stat(program); program != "" && err != nil {
			return usagef("no relay at %s: build it with make build, or give --relay", program)
		}
	}
	runtime.GOMAXPROCS(1) // one processor for each: the relay, and the generator

	b := &benchRun{env: e, benchCommand: c, me: me, report: newBenchReport(e.ctx, c.Relay)}
	defer b.end()
	type row struct {
		name string
		run  func() error
	}
	var rows []row
	for _, w := range works {
		rows = append(rows, row{w.Name, func() error { return b.work(w) }})
	}
	rows = append(rows, row{rowFlood, b.flood}, row{rowIdle, b.idle}, row{rowTLSIdle, b.tlsIdle}, row{rowAmong, b.among}, row{rowBusy, b.busy})
	// What has been measured by then is told even if a later row breaks.
	var broken error
	for _, r := range rows {
		if !only.MatchString(r.name) {
			continue
		}
		if err := r.run(); err != nil {
			broken = fmt.Errorf("%s: %w", r.name, err)
			break
		}
	}
	b.report.judge()
	return errors.Join(e.printReport(c.JSON, b.report), broken)
}
