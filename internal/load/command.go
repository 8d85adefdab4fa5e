package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
)

// Exit codes of a command.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// Usagef returns an error that reports an invalid command line.
func Usagef(format string, a ...any) error { return cli.Usagef(format, a...) }

// Env is the environment of a command: its context, its output and its progress
// line.
type Env struct {
	Ctx      context.Context
	Stdout   io.Writer
	Progress *Progress
}

// Report is the result of a command.
type Report interface{ Table(io.Writer) }

// Print writes r as a table, or as indented JSON.
func (e *Env) Print(asJSON bool, r Report) error {
	if asJSON {
		enc := json.NewEncoder(e.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	r.Table(e.Stdout)
	return nil
}

// Main runs a program with the arguments and the output of the process, and ends the
// process with the exit code that run returns. The context of run ends at an interrupt
// or a SIGTERM.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Command parses the command line args of a program with these commands, calls run with
// the options of the selected command, and returns the exit code.
func Command(ctx context.Context, name, about string, args []string, stdout, stderr io.Writer, run func(options any, e *Env) error, commands ...*cobra.Command) int {
	if len(args) == 0 {
		args = []string{"--help"}
	}
	selected, err := cli.Parse(cli.Root(name, about, stdout, commands...), args)
	if err == nil && selected.Command == nil {
		return ExitDone // it was help
	}
	if err == nil {
		err = cli.Invalid(selected.Command)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return ExitUsage
	}
	tell := NewProgress(stderr)
	err = run(selected.Options, &Env{Ctx: ctx, Stdout: tell.Writer(stdout), Progress: tell})
	errs := tell.Writer(stderr)
	fmt.Fprint(errs, "") // removes the progress line
	if err == nil {
		return ExitDone
	}
	fmt.Fprintf(errs, "%s: %v\n", name, err)
	if _, ok := errors.AsType[cli.UsageError](err); ok {
		return ExitUsage
	}
	return ExitFailed
}

// EnoughFiles returns a usage error if the limit of open files is too low for the
// given number of connections.
func EnoughFiles(connections int) error {
	const spare = 64
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return nil // a limit that is too low then shows as a failed dial
	}
	if need := uint64(connections) + spare; uint64(lim.Cur) < need {
		return Usagef("%d connections need %d open files, this shell allows %d: raise it with ulimit -n, or ask for fewer", connections, need, lim.Cur)
	}
	return nil
}

// IsRelay returns a usage error if no program exists at a path.
func IsRelay(program string) error {
	if _, err := os.Stat(program); err != nil {
		return Usagef("--relay: %v: build it with make build, or give --relay", err)
	}
	return nil
}

// Progress shows the state of a run in one line of a terminal. If the output is
// not a terminal, it shows nothing. Output through Writer replaces the line.
type Progress struct {
	mu    sync.Mutex
	to    io.Writer
	on    bool // to is a terminal that can remove a line
	shown bool
	inner bool // the last write through Writer did not end with a newline
	last  time.Time
}

const (
	// progressWidth is the maximum width of the line. A line that wraps cannot be
	// removed.
	progressWidth = 79

	// progressEvery is the minimum time between two updates.
	progressEvery = 100 * time.Millisecond

	removeLine = "\r\x1b[K"
)

// NewProgress returns a progress line on w.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{to: w}
	if f, ok := w.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		p.on = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// Show replaces the line. It does nothing within progressEvery of the previous
// update, or while other output has an incomplete line.
func (p *Progress) Show(format string, a ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.on || p.inner || time.Since(p.last) < progressEvery {
		return
	}
	p.last, p.shown = time.Now(), true
	fmt.Fprintf(p.to, removeLine+"%.*s", progressWidth, fmt.Sprintf(format, a...))
}

// Writer returns a writer to w that removes the line before each write.
func (p *Progress) Writer(w io.Writer) io.Writer { return behind{p, w} }

type behind struct {
	*Progress
	w io.Writer
}

// Write implements io.Writer.
func (b behind) Write(text []byte) (int, error) {
	p := b.Progress
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.to, removeLine)
		p.shown = false
	}
	if len(text) > 0 {
		p.inner = text[len(text)-1] != '\n'
	}
	return b.w.Write(text)
}

// Connecting shows the progress of Connect.
func (p *Progress) Connecting(done, of int) { p.Show("connecting: %d of %d", done, of) }

// Running returns a function that shows the progress of Fleet.Run.
func (p *Progress) Running(what string) func(uint64, time.Duration) {
	return func(n uint64, since time.Duration) {
		rate := 0.0
		if since > 0 {
			rate = float64(n) / since.Seconds()
		}
		p.Show("%s: %d frames in %.1f s, %.0f per second", what, n, since.Seconds(), rate)
	}
}
