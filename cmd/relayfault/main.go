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
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

// commands is the command line.
type commands struct {
	Soak    soakCommand    `cmd:"" help:"Start a relay, run all kinds of clients for an hour, and report memory, goroutines and files that grow."`
	Cluster clusterCommand `cmd:"" help:"Relays in a cluster: fault tests and benchmarks."`
	Etcd    etcdCommand    `cmd:"" hidden:"" help:"Run an etcd server for the fault tests."`
}

const about = `Tests relays in processes of their own, under load and faults.

The exit code is 1 if a check failed. Every run has a time limit.`

// maxRun bounds a soak and the fault tests.
const maxRun = 25 * time.Hour

func main() { load.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	vars := kong.Vars{"faults": strings.Join(faultNames(), ", ")}
	return load.Command(ctx, "relayfault", about, new(commands), vars, args, stdout, stderr, func(selected any, e *load.Env) error {
		return selected.(interface{ run(*load.Env) error }).run(e)
	})
}
