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

	"github.com/spf13/cobra"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/load"
)

const about = `Generates load for a relay and measures it.

Every frame is checked byte for byte: a lost, repeated, reordered or changed frame ends the run with exit code 1. Without --i-own-this-relay, only relays on loopback are accepted. Every run has a time limit.`

func main() { load.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return load.Command(ctx, "relayload", about, args, stdout, stderr, drive, commands()...)
}

// commands returns the scenarios, and the programs that bench starts.
func commands() []*cobra.Command {
	compare := cli.Command("bench", "Compare a relay with a plain relay and with a byte copier; prints the table of docs/performance.md.", new(benchCommand))
	compare.Flags().Lookup("only").Usage += ": " + strings.Join(benchRows(), ", ") + "."
	return []*cobra.Command{
		cli.Command("echo", "Round trips: phones send, binaries send back.", new(echoCommand)),
		cli.Command("fanout", "Binaries send to many phones each.", new(fanoutCommand)),
		cli.Command("idle", "Idle connections: the memory and processor time of each.", new(idleCommand)),
		cli.Command("churn", "Phones that connect, make one round trip and close.", new(churnCommand)),
		cli.Command("slow", "Round trips while other phones of the same binary do not read.", new(slowCommand)),
		cli.Command("flood", "Round trips while other phones flood the same binary.", new(floodCommand)),
		cli.Command("restart", "Restart a relay under many clients: how many redials fail, and how long until all clients are connected again.", new(restartCommand)),
		cli.Command("curve", "Round trips with a growing number of phones; draws the capacity curve.", new(curveCommand)),
		compare,
		cli.Hidden(cli.Command("baseline", "Run the plain relay that bench uses as the baseline.", new(serveBaseline))),
		cli.Hidden(cli.Command("splice", "Run the byte copier that bench uses as the upper bound.", new(serveSplice))),
	}
}
