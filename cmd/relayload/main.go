// Command relayload generates load for a relay and measures its throughput,
// latency and cost, so that an operator can choose the size of a machine.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// commands is the command line.
type commands struct {
	Echo    echoCommand    `cmd:"" help:"Round trips: phones send, binaries send back."`
	Fanout  fanoutCommand  `cmd:"" help:"Binaries send to many phones each."`
	Idle    idleCommand    `cmd:"" help:"Idle connections: the memory and processor time of each."`
	Churn   churnCommand   `cmd:"" help:"Phones that connect, make one round trip and close."`
	Slow    slowCommand    `cmd:"" help:"Round trips while other phones of the same binary do not read."`
	Soak    soakCommand    `cmd:"" help:"Start a relay, run all kinds of clients for an hour, and report memory, goroutines and files that grow."`
	Flood   floodCommand   `cmd:"" help:"Round trips while other phones flood the same binary."`
	Restart restartCommand `cmd:"" help:"Restart a relay under many clients: how many redials fail, and how long until all clients are connected again."`
	Curve   curveCommand   `cmd:"" help:"Round trips with a growing number of phones; draws the capacity curve."`
	Bench   benchCommand   `cmd:"" help:"Compare a relay with a plain relay and with a byte copier; prints the table of docs/performance.md."`
	Cluster clusterCommand `cmd:"" help:"Three relays in a cluster: fault tests and benchmarks."`

	Baseline serveBaseline `cmd:"" hidden:"" help:"Run the plain relay that bench uses as the baseline."`
	Splice   serveSplice   `cmd:"" hidden:"" help:"Run the byte copier that bench uses as the upper bound."`
}

const about = `Generates load for a relay and measures it.

Every frame is checked byte for byte: a lost, repeated, reordered or changed frame ends the run with exit code 1. Without --i-own-this-relay, only relays on loopback are accepted. Every run has a time limit.`

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// self is the process id of this program.
var self = os.Getpid()

// usageError reports an invalid command line. run returns exitUsage for it.
type usageError struct{ error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// env is the environment of a command: its context, its output and its progress
// line.
type env struct {
	ctx      context.Context
	stdout   io.Writer
	progress *progress
}

// printReport writes v as a table, or as indented JSON.
func (e *env) printReport(asJSON bool, v interface{ table(io.Writer) }) error {
	if asJSON {
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	v.table(e.stdout)
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr *os.File) int {
	var c commands
	helped := false
	k, err := kong.New(&c,
		kong.Name("relayload"), kong.Description(about),
		kong.Writers(stdout, stdout),
		kong.Vars{"rows": strings.Join(benchRows(), ", "), "faults": strings.Join(faultNames(), ", ")},
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.ValueFormatter(func(v *kong.Value) string {
			if v.Default == "" || v.IsBool() {
				return v.Help
			}
			return fmt.Sprintf("%s (default %s)", v.Help, v.Default)
		}))
	if err != nil {
		panic(err) // a bad struct tag in commands; the input cannot cause it
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := k.Parse(args)
	switch {
	case helped:
		return exitDone
	case err != nil:
		fmt.Fprintf(stderr, "relayload: %v; relayload --help lists the commands\n", err)
		return exitUsage
	}
	tell := newProgress(stderr)
	err = parsed.Run(&env{ctx: ctx, stdout: tell.writer(stdout), progress: tell})
	errs := tell.writer(stderr)
	fmt.Fprint(errs, "") // removes the progress line
	if _, ok := errors.AsType[usageError](err); ok {
		fmt.Fprintln(errs, "relayload:", err)
		return exitUsage
	}
	if err != nil {
		fmt.Fprintln(errs, "relayload:", err)
		return exitFailed
	}
	return exitDone
}
