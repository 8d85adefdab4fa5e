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
	Only    string        `default:"" placeholder:"REGEXP" help:"Rows to run, by name"`
	Conns   int           `default:"10000" help:"Connections of the rows with many connections."`
	IdleFor time.Duration `name:"beat" default:"33s" help:"Duration of the idle measurement; a heartbeat is sent every 30s."`
	JSON    bool          `name:"json" help:"Print JSON, not a table."`

	me string // path of this program
}

// work is one traffic row with its goals.
type work struct {
	Name  string
	shape load.Shape
	tls   bool
	goals []ratioGoal
	p99   float64 // maximum ratio to the baseline; 0: no goal
}

// ratioGoal is a goal of the relay relative to another candidate. The ratio is that of
// the throughput, or of the processor time per frame if cost is set.
type ratioGoal struct {
	to             string
	reach, stretch float64
	cost           bool // reach and stretch are maxima
}

// The shapes of the traffic rows.
var (
	roundTrips  = load.Shape{Binaries: 4, Phones: 8, Size: 512, Flight: 4}
	large       = load.Shape{Binaries: 4, Phones: 8, Size: 8 << 10, Flight: 4}
	oneInFlight = load.Shape{Binaries: 4, Phones: 8, Size: 512, Flight: 1}
	fanout      = load.Shape{Binaries: 1, Phones: 16, Size: 512, Flight: 64, Fanout: true}

	// paced leaves about 50 µs between two frames of phones, so that a relay can
	// hardly forward two of them with one system call.
	paced = load.Shape{Binaries: 4, Phones: 8, Size: 512, Flight: 16, Rate: 20_000}
)

const rowPaced, rowTLSPaced = "paced", "tls: paced"

var works = []work{
	{Name: "round trips", shape: roundTrips, goals: []ratioGoal{{"baseline", 13, 15, false}, {"splice", 1.45, 1.6, false}}},
	{Name: "one binary to 16 phones", shape: fanout, goals: []ratioGoal{{"baseline", 28, 36, false}}},
	{Name: "8 KiB frames", shape: large, goals: []ratioGoal{{"baseline", 16, 0, false}, {"splice", 0, 1, false}}},
	{Name: "one in flight", shape: oneInFlight, goals: []ratioGoal{{"baseline", 4.5, 5.2, false}}, p99: .5},
	{Name: rowPaced, shape: paced, goals: []ratioGoal{{"haproxy", 1, .9, true}}},
	{Name: "tls: round trips", tls: true, shape: roundTrips, goals: []ratioGoal{{"baseline", 10, 12, false}}},
	{Name: "tls: one binary to 16 phones", tls: true, shape: fanout, goals: []ratioGoal{{"baseline", 22, 28, false}}},
	{Name: rowTLSPaced, tls: true, shape: paced, goals: []ratioGoal{{"haproxy", .8, .7, true}}},
}

// copiesBytes reports whether a candidate is a byte copier in front of an echo server.
// It connects one client to one server, so it cannot run a fan-out.
func copiesBytes(candidate string) bool { return candidate == "splice" || candidate == "haproxy" }

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
	b := &benchRun{driver: d, benchCommand: c, report: &benchReport{Date: time.Now().Format(time.DateOnly), Relay: load.VersionOf(d.Ctx, c.Relay), Cores: runtime.NumCPU()}}
	defer b.end()
	if haproxyPath() == "" {
		b.report.Notes = append(b.report.Notes, "HAProxy is not installed (Debian: apt-get install haproxy), so it is not among the candidates.")
	}
	type row struct {
		name string
		run  func() error
	}
	var rows []row
	for _, w := range works {
		rows = append(rows, row{w.Name, func() error { return b.work(w) }})
	}
	rows = append(rows, row{rowFlood, b.flood},
		row{rowIdle, func() error { return b.stayIdle(false, b.Conns, b.IdleFor) }},
		// Fewer, and for a time without a heartbeat: the row shows the cost of a handshake and
		// of a connection.
		row{rowTLSIdle, func() error { return b.stayIdle(true, min(4000, b.Conns), 4*time.Second) }},
		row{rowAmong, b.among}, row{rowBusy, b.busy})
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
