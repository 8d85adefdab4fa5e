// Command relayload puts load on a relay and tells what it carries, so that
// an operator can size a machine.
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
	Idle    idleCommand    `cmd:"" help:"Connections that do nothing: what does each cost?"`
	Churn   churnCommand   `cmd:"" help:"Phones that come, make one round trip and go."`
	Slow    slowCommand    `cmd:"" help:"Round trips beside phones that do not read."`
	Soak    soakCommand    `cmd:"" help:"Start a relay and put it for an hour through all that peers do; does anything grow?"`
	Flood   floodCommand   `cmd:"" help:"Round trips beside phones that flood their binary."`
	Restart restartCommand `cmd:"" help:"Restart a relay under many clients: how many redials are lost, and when are all clients back?"`
	Curve   curveCommand   `cmd:"" help:"Round trips with ever more phones; draws the capacity curve."`
	Bench   benchCommand   `cmd:"" help:"Start a relay, a plain one and a copier of bytes; compare them on the table of docs/performance.md."`
	Cluster clusterCommand `cmd:"" help:"Three relays that share server-ids: what they stand, and what it costs."`

	Baseline serveBaseline `cmd:"" hidden:"" help:"Run the plain relay that bench compares with."`
	Splice   serveSplice   `cmd:"" hidden:"" help:"Run the copier of bytes that bench compares with."`
}

const about = `Puts load on a relay and tells what it carries.

Every frame is checked byte for byte: a frame lost, repeated, out of order or changed ends the run with exit code 1. Only relays on loopback are accepted without --i-own-this-relay. Each run ends by itself.`

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// self is this process.
var self = os.Getpid()

// usageError is a command line that cannot be right.
type usageError struct{ error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// env is what commands run in.
type env struct {
	ctx      context.Context
	stdout   io.Writer
	progress *progress
}

// printReport writes v as a table or as JSON.
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
		panic(err) // of the struct above, not of the input
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := k.Parse(args)
	switch {
	case helped:
		return exitDone
	case err != nil:
		fmt.Fprintf(stderr, "relayload: %v; relayload --help lists what there is\n", err)
		return exitUsage
	}
	tell := newProgress(stderr)
	err = parsed.Run(&env{ctx: ctx, stdout: tell.writer(stdout), progress: tell})
	errs := tell.writer(stderr)
	fmt.Fprint(errs, "") // the progress ends here
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
