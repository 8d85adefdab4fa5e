// Command relayload generates load for a relay and measures its throughput,
// latency and cost, so that an operator can choose the size of a machine.
//
// Each command is a scenario (see driver.go). One driver checks its options, finds
// or starts the relay, runs it, and prints the report.
package main

import (
	"context"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

// commands is the command line. Its visible commands are the scenarios.
type commands struct {
	Echo    echoCommand    `cmd:"" help:"Round trips: phones send, binaries send back."`
	Fanout  fanoutCommand  `cmd:"" help:"Binaries send to many phones each."`
	Idle    idleCommand    `cmd:"" help:"Idle connections: the memory and processor time of each."`
	Churn   churnCommand   `cmd:"" help:"Phones that connect, make one round trip and close."`
	Slow    slowCommand    `cmd:"" help:"Round trips while other phones of the same binary do not read."`
	Flood   floodCommand   `cmd:"" help:"Round trips while other phones flood the same binary."`
	Restart restartCommand `cmd:"" help:"Restart a relay under many clients: how many redials fail, and how long until all clients are connected again."`
	Curve   curveCommand   `cmd:"" help:"Round trips with a growing number of phones; draws the capacity curve."`
	Bench   benchCommand   `cmd:"" help:"Compare a relay with a plain relay and with a byte copier; prints the table of docs/performance.md."`

	Baseline serveBaseline `cmd:"" hidden:"" help:"Run the plain relay that bench uses as the baseline."`
	Splice   serveSplice   `cmd:"" hidden:"" help:"Run the byte copier that bench uses as the upper bound."`
}

const about = `Generates load for a relay and measures it.

Every frame is checked byte for byte: a lost, repeated, reordered or changed frame ends the run with exit code 1. Without --i-own-this-relay, only relays on loopback are accepted. Every run has a time limit.`

func main() { load.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	vars := kong.Vars{"rows": strings.Join(benchRows(), ", ")}
	return load.Command(ctx, "relayload", about, new(commands), vars, args, stdout, stderr, drive)
}
