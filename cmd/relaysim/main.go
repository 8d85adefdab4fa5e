// Relaysim runs the relay in a simulated world, where a seed decides what
// happens next.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/pyrycode/pyrycode-relay/sim"
)

// What the command returns.
const (
	held   = 0
	broken = 1
	usage  = 2
)

func main() {
	if os.Getenv(stage) == "" {
		os.Exit(prepare())
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1) // one task runs at a time; sweeps use processes
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

var commands = []struct {
	name, args, what string
	run              func(*env) int
}{
	{"run", "-world registry -seed 42 [-strategy pct3] [-trace F] [-html F]", "run exactly one seed", (*env).runSeed},
	{"sweep", "-world registry -seeds 1-10000 | -for 30s [-jobs N] [-out DIR]", "run many", (*env).sweep},
	{"replay", "FILE [-trace F] [-html F]", "run what a file says", (*env).replay},
	{"shrink", "FILE [-o F]", "make a broken run smaller", (*env).shrink},
	{"mutants", "[-world W] [-n CAMPAIGNS] [-only NAME]", "break the relay on purpose and see that it is noticed", (*env).mutants},
	{"exhaustive", "-world registry [-seed N] [-bound N]", "try every schedule of a small world", (*env).exhaustive},
	{"worlds", "", "name them all", (*env).worlds},
	{"reach", "", "measure what the race detector sees", (*env).reach},
}

// env is what a command works with.
type env struct {
	args     []string
	out, err io.Writer
	flags    *flag.FlagSet

	world    string
	strategy string
}

func run(args []string, out, errw io.Writer) int {
	if len(args) > 0 {
		for _, c := range commands {
			if c.name == args[0] {
				return command(c.name, c.args, c.run, args[1:], out, errw)
			}
		}
		switch args[0] {
		case "campaign": // what mutants runs in each mutant
			return command("campaign", "", (*env).campaign, args[1:], out, errw)
		case "help", "-h", "-help", "--help":
			help(out)
			return held
		}
		fmt.Fprintf(errw, "relaysim: unknown command %q\n", args[0])
	}
	help(errw)
	return usage
}

func help(w io.Writer) {
	fmt.Fprintln(w, "usage:")
	for _, c := range commands {
		fmt.Fprintf(w, "  relaysim %-8s %s\n%21s%s\n", c.name, c.args, "", c.what)
	}
	fmt.Fprintf(w, "worlds: %s\nstrategies: mix, %s\n", strings.Join(sim.Worlds(), ", "), strings.Join(sim.Strategies, ", "))
	fmt.Fprintln(w, "exit: 0 held, 1 broken, 2 usage")
}

func command(name, argHelp string, f func(*env) int, args []string, out, errw io.Writer) int {
	e := &env{out: out, err: errw, args: args, flags: flag.NewFlagSet(name, flag.ContinueOnError)}
	e.flags.SetOutput(errw)
	e.flags.Usage = func() {
		fmt.Fprintf(errw, "usage: relaysim %s %s\n", name, argHelp)
		e.flags.PrintDefaults()
	}
	return f(e)
}

// parse reads the flags, wherever they stand among the arguments, and
// wants exactly n arguments besides them.
func (e *env) parse(n int) ([]string, bool) {
	var rest []string
	for args := e.args; ; {
		err := e.flags.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			return nil, false
		}
		if err != nil {
			return nil, false
		}
		if args = e.flags.Args(); len(args) == 0 {
			break
		}
		rest, args = append(rest, args[0]), args[1:]
	}
	if len(rest) != n {
		e.complain("want %d arguments, have %d: %s", n, len(rest), strings.Join(rest, " "))
		return nil, false
	}
	return rest, true
}

func (e *env) complain(format string, args ...any) int {
	fmt.Fprintf(e.err, "relaysim %s: %s\n", e.flags.Name(), fmt.Sprintf(format, args...))
	return usage
}

func (e *env) worlds() int {
	if _, ok := e.parse(0); !ok {
		return usage
	}
	fmt.Fprintln(e.out, strings.Join(sim.Worlds(), "\n"))
	return held
}

// where adds the flags that say what is run.
func (e *env) where() {
	e.flags.StringVar(&e.world, "world", "registry", "what to run: "+strings.Join(sim.Worlds(), ", "))
	e.flags.StringVar(&e.strategy, "strategy", "mix", "how to walk: mix, "+strings.Join(sim.Strategies, ", "))
}

// runner makes what runs the seeds.
func (e *env) runner() (sim.Runner, error) {
	w, err := sim.FindWorld(e.world)
	if err != nil {
		return sim.Runner{}, err
	}
	return sim.Runner{World: w, Strategy: e.strategy}, sim.CheckStrategy(e.strategy)
}
