// Command relayfault tests whole relay processes over real sockets, under load and
// faults. soak runs one relay for an hour under all kinds of clients, and reports values
// that grow. cluster kills, freezes and partitions three relays, and reports server-ids
// that two of them served concurrently.
//
// Fault tests of a relay within one process are in internal/battery. The load tool of an
// operator is cmd/relayload.
package main

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/load"
)

const about = `Tests relays in processes of their own, under load and faults.

The exit code is 1 if a check failed. Every run has a time limit.`

// maxRun bounds a soak and the fault tests.
const maxRun = 25 * time.Hour

func main() { load.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return load.Command(ctx, "relayfault", about, args, stdout, stderr, func(options any, e *load.Env) error {
		return options.(interface{ run(*load.Env) error }).run(e)
	}, commands()...)
}

// commands returns the tests, and the program that they start.
func commands() []*cobra.Command {
	return []*cobra.Command{
		cli.Command("soak", "Start a relay, run all kinds of clients for an hour, and report memory, goroutines and files that grow.", new(soakCommand)),
		clusterCommands(),
		cli.Hidden(cli.Command("etcd", "Run an etcd server for the fault tests.", new(etcdCommand))),
	}
}
