// Pyrycode-relay forwards frames between a binary and its phones, which cannot reach each
// other directly. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
	"github.com/pyrycode/pyrycode-relay/internal/daemon/earlysignals"
)

// Set by the build: -ldflags "-X main.version=… -X main.revision=…".
var version, revision string

// Exit codes.
const (
	done    = 0 // also after a signal
	failed  = 1
	refused = 2 // the command line or the configuration; also after SIGQUIT or SIGABRT, as Go programs do
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run runs the command and returns the exit code. It catches signals from its first line
// on, so that a signal during the start ends the process cleanly.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	stop := make(chan os.Signal, 2) // room for a second signal while the first is handled
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(stop)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	earlysignals.Handover(stop, reload)

	b := daemon.ReadBuild(version, revision)
	c := newCommand(environ, stdout)
	var selected cli.Selection
	var problems []string
	parsed := make(chan struct{})
	go func() {
		defer close(parsed)
		selected, problems = c.read(args) // waits for files
	}()
	select {
	case <-parsed:
	case <-stop:
		return done
	}
	if selected.Command == nil {
		return done // help was printed
	}
	if _, ok := selected.Options.(*options); ok || selected.Options == nil {
		return c.serve(ctx, args, environ, problems, b, stderr, stop, reload)
	}
	signal.Stop(reload)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-stop:
			signal.Stop(stop) // a second signal kills the process
			cancel()
		case <-ended:
		}
	}()
	if check, ok := selected.Options.(*check); ok {
		if !check.run(ctx, c.env, problems, stdout) {
			return refused
		}
		return done
	}
	if len(problems) > 0 {
		daemon.LogFailure(stderr, "text", problems)
		return refused
	}
	err := selected.Options.(interface {
		run(context.Context, invocation) error
	}).run(ctx, invocation{c.root, b, selected.Args, os.Stdin, stdout})
	if err != nil {
		log := daemon.NewLogWriter(stderr, "text") // stderr may be a full pipe
		fmt.Fprintf(log, "%s: %v\n", selected.Command.CommandPath(), err)
		log.Flush(daemon.FlushTime)
		if _, ok := errors.AsType[cli.UsageError](err); ok {
			return refused
		}
		return failed
	}
	return done
}

// invocation is what a command other than serve and check runs with.
type invocation struct {
	root  *cobra.Command
	build daemon.Build
	args  []string
	in    io.Reader
	out   io.Writer
}

// dumpOnQuit ends the process on SIGQUIT and on SIGABRT, the watchdog's signal, after it
// has written the stacks of all goroutines to stderr. Go's runtime does the same, but
// waits for ever if stderr is a full pipe.
func dumpOnQuit(stderr io.Writer) (stop func()) {
	quit, stopped := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(quit, syscall.SIGQUIT, syscall.SIGABRT)
	go func() {
		select {
		case s := <-quit:
			dump := make([]byte, 8<<20)
			dump = dump[:runtime.Stack(dump, true)]
			written := make(chan struct{})
			go func() {
				defer close(written)
				fmt.Fprintf(stderr, "%v: what each goroutine does\n\n%s\n", s, dump)
			}()
			select {
			case <-written:
			case <-time.After(daemon.FlushTime):
			}
			os.Exit(refused)
		case <-stopped:
		}
	}()
	return func() {
		signal.Stop(quit)
		close(stopped)
	}
}

// outlivePipes makes a write to standard output or standard error return an error after
// its reader has ended. By default such a write kills the process.
func outlivePipes() { signal.Ignore(syscall.SIGPIPE) }

// serve runs the relay until a signal arrives, and returns the exit code. problems are
// the problems of the command line and of the configuration, as sentences. If problems
// is not empty, serve only reports them.
func (c *command) serve(ctx context.Context, args, environ, problems []string, b daemon.Build, stderr io.Writer, stop, reload <-chan os.Signal) int {
	format := c.logFormat(args)
	if len(problems) > 0 {
		daemon.LogFailure(stderr, format, problems)
		return refused
	}
	outlivePipes()
	defer dumpOnQuit(stderr)()
	supervisor, err := daemon.FromSystemd()
	if err != nil {
		daemon.LogFailure(stderr, format, []string{err.Error()})
		return refused
	}
	again := c.again(args, environ)
	err = daemon.Run(ctx, c.Serve.Config, daemon.Env{Build: b, Log: stderr, Signals: stop, Reload: reload, Origins: c.env.origins,
		Configure: again, Supervisor: supervisor, Reloading: supervisor.Reloading, Banner: bannerFor(stderr, c.Serve.LogFormat)})
	if err == nil {
		return done
	}
	daemon.LogFailure(stderr, format, strings.Split(err.Error(), "\n"))
	if _, ok := errors.AsType[*config.Error](err); ok {
		return refused
	}
	return failed
}
