package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

type benchCommand struct {
	Relay   string        `default:"" help:"The relay's program; by default pyrycode-relay in the directory of this program."`
	Before  string        `placeholder:"PROGRAM" help:"Another build of the relay, to compare."`
	Rounds  int           `default:"5" help:"Rounds; every candidate is measured once per round. Medians are printed."`
	For     time.Duration `default:"1s" help:"Duration of each measurement."`
	Only    string        `default:"" placeholder:"REGEXP" help:"Rows to run, by name: ${rows}."`
	Conns   int           `default:"10000" help:"Connections of the rows with many connections."`
	IdleFor time.Duration `name:"beat" default:"33s" help:"Duration of the idle measurement; a heartbeat is sent every 30s."`
	JSON    bool          `name:"json" help:"Print JSON, not a table."`

	me string // this program
}

// work is one traffic row with its goals (issue 5). A goal of 0 is no goal.
type work struct {
	Name  string
	shape load.Shape
	tls   bool

	baseline, baselineStretch float64 // minimum ratio to the baseline
	spliceStretch             float64 // minimum ratio to the splice
	p99                       float64 // maximum ratio to the baseline
}

// splices reports whether the byte copier can run this row: it connects one
// client to one server, without TLS.
func (w work) splices() bool { return !w.tls && !w.shape.Fanout }

var works = []work{
	{Name: "round trips", shape: load.Shape{Binaries: 4, Phones: 8, Size: 512, Flight: 4}, baseline: 8, spliceStretch: 1.2},
	{Name: "one binary to 16 phones", shape: load.Shape{Binaries: 1, Phones: 16, Size: 512, Flight: 64, Fanout: true}, baseline: 15, baselineStretch: 25},
	{Name: "8 KiB frames", shape: load.Shape{Binaries: 4, Phones: 8, Size: 8 << 10, Flight: 4}, baseline: 7, baselineStretch: 10},
	{Name: "one in flight", shape: load.Shape{Binaries: 4, Phones: 8, Size: 512, Flight: 1}, baseline: 2.3, spliceStretch: 1.5, p99: .5},
	{Name: "tls: round trips", shape: load.Shape{Binaries: 4, Phones: 8, Size: 512, Flight: 4}, tls: true},
	{Name: "tls: one binary to 16 phones", shape: load.Shape{Binaries: 1, Phones: 16, Size: 512, Flight: 64, Fanout: true}, tls: true},
}

// Names of the other rows.
const (
	rowFlood   = "flood"
	rowIdle    = "idle"
	rowTLSIdle = "tls: idle"
	rowAmong   = "growth: among idle"
	rowBusy    = "growth: all busy"
)

// benchRows returns the names of all rows.
func benchRows() (all []string) {
	for _, w := range works {
		all = append(all, w.Name)
	}
	return append(all, rowFlood, rowIdle, rowTLSIdle, rowAmong, rowBusy)
}

func (c *benchCommand) plan() (plan, error) {
	only, err := regexp.Compile(c.Only)
	switch {
	case err != nil:
		return plan{}, load.Usagef("--only: %v", err)
	case !slices.ContainsFunc(benchRows(), only.MatchString):
		return plan{}, load.Usagef("--only %q: there is no such row; the rows are %s", c.Only, strings.Join(benchRows(), ", "))
	case c.Rounds < 1 || c.For < 100*time.Millisecond || c.For > time.Minute || c.Conns < 100 || c.IdleFor < time.Second || c.IdleFor > maxRun:
		return plan{}, load.Usagef("--rounds must be 1 or more, --for from 100ms to 1m, --conns 100 or more, --beat 1s or more")
	}
	if c.me, err = os.Executable(); err != nil {
		return plan{}, err
	}
	if c.Relay == "" {
		c.Relay = filepath.Join(filepath.Dir(c.me), "pyrycode-relay")
	}
	if err := load.IsRelay(c.Relay); err != nil {
		return plan{}, err
	}
	if c.Before != "" {
		if _, err := os.Stat(c.Before); err != nil {
			return plan{}, load.Usagef("--before: %v", err)
		}
	}
	return plan{conns: c.Conns*9/5 + 1000, json: c.JSON}, nil
}

// run measures the rows. It fails if a frame was wrong or lost, and then returns
// the completed rows too. A missed goal appears in the table and is not an error.
func (c *benchCommand) run(d *driver) (load.Report, error) {
	runtime.GOMAXPROCS(1) // one processor for the relay and one for the generator
	b := &benchRun{driver: d, benchCommand: c, report: newBenchReport(d.Ctx, c.Relay)}
	defer b.end()
	type row struct {
		name string
		run  func() error
	}
	var rows []row
	for _, w := range works {
		rows = append(rows, row{w.Name, func() error { return b.work(w) }})
	}
	rows = append(rows, row{rowFlood, b.flood}, row{rowIdle, b.idleRow}, row{rowTLSIdle, b.tlsIdle}, row{rowAmong, b.among}, row{rowBusy, b.busy})
	only := regexp.MustCompile(c.Only)
	var failed error
	for _, r := range rows {
		if !only.MatchString(r.name) {
			continue
		}
		if err := r.run(); err != nil {
			failed = fmt.Errorf("%s: %w", r.name, err)
			break
		}
	}
	b.report.judge()
	return b.report, failed
}
