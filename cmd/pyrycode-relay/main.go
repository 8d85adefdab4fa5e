// Pyrycode-relay pipes frames between a binary and its phones, none of whom
// can reach the other. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// What the build tells: -ldflags "-X main.version=… -X main.revision=…".
var version, revision string

// What the command returns.
const (
	done    = 0 // also after a signal
	failed  = 1
	refused = 2 // the command line or the configuration
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the whole command. It returns the exit code.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	b := daemon.ReadBuild(version, revision)
	c := newCommand(environ)
	name, problems := c.read(args, b, stdout)
	if name == "check" {
		if !c.Check.run(ctx, c.env.origins, problems, stdout) {
			return refused
		}
		return done
	}
	if len(problems) > 0 {
		fmt.Fprintln(stderr, complain(problems))
		return refused
	}
	switch name {
	case "version":
		c.Version.run(b, stdout)
	case "completion":
		c.Completion.run(c.model, stdout)
	case "man":
		c.Man.run(c.model, b, stdout)
	case "diag":
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		if err := c.Diag.run(ctx, b, time.Now(), stdout); err != nil {
			fmt.Fprintln(stderr, "pyrycode-relay diag:", err)
			return failed
		}
	case "healthcheck":
		if err := c.Healthcheck.run(ctx, stdout); err != nil {
			fmt.Fprintln(stderr, "pyrycode-relay healthcheck:", err)
			return failed
		}
	case "probe":
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		probe := func() error { return c.Probe.run(ctx, b.Version, stdout) }
		if c.Probe.Listen != "" {
			probe = func() error { return c.Probe.export(ctx, b, stdout) }
		}
		if err := probe(); err != nil {
			fmt.Fprintln(stderr, "pyrycode-relay probe:", err)
			return failed
		}
	case "serve":
		again := func() (daemon.Config, daemon.Origins, error) {
			c := newCommand(environ) // of what it was started with; only the file can be another
			if _, problems := c.read(args, b, io.Discard); len(problems) > 0 {
				return daemon.Config{}, nil, errors.New(strings.Join(problems, "\n"))
			}
			return c.Serve.Config, c.env.origins, nil
		}
		return serve(ctx, c.Serve.Config, c.env.origins, again, b, stderr)
	}
	return done
}

// serve runs the relay until a signal comes. again reads the configuration
// anew.
func serve(ctx context.Context, cfg daemon.Config, from daemon.Origins, again func() (daemon.Config, daemon.Origins, error), b daemon.Build, stderr io.Writer) int {
	signals := make(chan os.Signal, 2) // the second must not be lost while the first is dealt with
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	supervisor, err := daemon.FromSystemd()
	if err != nil {
		fmt.Fprintln(stderr, "pyrycode-relay:", err)
		return refused
	}
	err = daemon.Run(ctx, cfg, daemon.Env{Build: b, Log: stderr, Signals: signals, Reload: reload, Origins: from, Configure: again, Supervisor: supervisor, Reloading: supervisor.Reloading})
	if err == nil {
		return done
	}
	fmt.Fprintln(stderr, "pyrycode-relay:", err)
	if _, ok := errors.AsType[*daemon.ConfigError](err); ok {
		return refused
	}
	return failed
}
