// Relaysim runs the relay in a simulated world, where a seed decides every
// choice.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/pyrycode/pyrycode-relay/sim"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// Exit codes.
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

// command is one of relaysim's commands. run defines the command's flags and
// calls parse before it does anything else, so usage can list them.
type command struct {
	name     string
	operands string   // arguments that are not flags
	needs    []string // one of these flags must be given
	summary  string
	run      func(*env) int
}

var commands = []command{
	{"run", "", []string{"seed"}, "run exactly one seed", (*env).runSeed},
	{"sweep", "", []string{"seeds", "for"}, "run many seeds, in one process per core", (*env).sweep},
	{"replay", "FILE", nil, "carry out the run in a file", (*env).replay},
	{"shrink", "FILE", nil, "make a failing run smaller", (*env).shrink},
	{"fork", "FILE", nil, "find the step from which on a failing run could not be saved", (*env).fork},
	{"demo", "", nil, "plant a bug in a copy of the relay, find it, shrink it and draw it", (*env).demo},
	{"mutants", "", nil, "break the relay on purpose and check that the simulator notices", (*env).mutants},
	{"campaign", "", nil, "search for failures in this build only; mutants runs it in the build of each mutant", (*env).campaign},
	{"verify", "", nil, "check that failing seeds of mutants give the same in every process and build", (*env).verify},
	{"fingerprints", "", nil, "print what failing seeds give, in this build only; verify runs it in the build of each mutant", (*env).fingerprints},
	{"exhaustive", "", nil, "try every schedule of a small world", (*env).exhaustive},
	{"worlds", "", nil, "name all worlds", (*env).worlds},
	{"reach", "", nil, "measure which races the race detector reports", (*env).reach},
}

// env is the state of a running command.
type env struct {
	command
	args     []string
	out, err io.Writer
	flags    *flag.FlagSet
	list     bool // parse stops once the flags are defined
	code     int  // what the command returns if parse reports false

	world    string
	strategy string
}

func (c command) env(args []string, out, errw io.Writer) *env {
	e := &env{command: c, args: args, out: out, err: errw, flags: flag.NewFlagSet(c.name, flag.ContinueOnError)}
	e.flags.SetOutput(io.Discard) // parse reports errors
	return e
}

func run(args []string, out, errw io.Writer) int {
	if len(args) == 0 {
		help(errw)
		return usage
	}
	name, rest := args[0], args[1:]
	if isHelp(name) {
		if len(rest) == 0 {
			help(out)
			return held
		}
		name, rest = rest[0], []string{"-h"} // help run is run -h
	}
	for _, c := range commands {
		if c.name == name {
			e := c.env(rest, out, errw)
			return c.run(e)
		}
	}
	fmt.Fprintf(errw, "relaysim: there is no command %q; relaysim help lists the commands\n", name)
	return usage
}

func isHelp(arg string) bool {
	switch arg {
	case "help", "-h", "-help", "--help":
		return true
	}
	return false
}

// help lists all commands with all their flags.
func help(w io.Writer) {
	fmt.Fprintln(w, "usage:")
	for _, c := range commands {
		e := c.env(nil, io.Discard, io.Discard)
		e.list = true
		c.run(e)
		fmt.Fprintf(w, "  %s\n      %s\n", e.synopsis(), c.summary)
	}
	fmt.Fprintf(w, "relaysim COMMAND -h explains the flags of a command.\nworlds: %s\nstrategies: mix, %s\n", strings.Join(sim.WorldNames(), ", "), strings.Join(engine.Strategies, ", "))
	fmt.Fprintln(w, `exit codes:
  0  no failure; mutants: the clean build held, and each mutant had the result that its file states; demo: the planted bug was found
  1  a run failed, also one that was replayed or shrunk; mutants: the clean build failed, or a mutant had another result than its file states; demo: no seed failed
  2  the command line is wrong, or the command could not run`)
}

// synopsis returns the command with all its flags, required flags first.
func (e *env) synopsis() string {
	all := []string{"relaysim", e.name}
	if e.operands != "" {
		all = append(all, e.operands)
	}
	var needed, others []string
	e.flags.VisitAll(func(f *flag.Flag) {
		text := "-" + f.Name
		if unit, _ := flag.UnquoteUsage(f); unit != "" {
			text += " " + unit
		} else if f.DefValue == "true" {
			text += "=false"
		}
		if slices.Contains(e.needs, f.Name) {
			needed = append(needed, text)
		} else {
			others = append(others, "["+text+"]")
		}
	})
	if len(needed) > 0 {
		all = append(all, strings.Join(needed, " | "))
	}
	return strings.Join(append(all, others...), " ")
}

// parse reads the flags, wherever they stand among the arguments, and returns
// the other arguments, of which there must be n. If it reports false, the
// command ends with e.code.
func (e *env) parse(n int) ([]string, bool) {
	e.code = usage
	if e.list {
		return nil, false
	}
	var rest []string
	for args := e.args; ; {
		if len(args) > 0 && len(rest) == 0 && args[0] == "help" {
			args = []string{"-h"}
		}
		switch err := e.flags.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			fmt.Fprintf(e.out, "usage: %s\n%s\n", e.synopsis(), e.summary)
			e.flags.SetOutput(e.out)
			e.flags.PrintDefaults()
			e.code = held
			return nil, false
		case err != nil:
			e.complain("%v; relaysim %s -h lists the flags", err, e.name)
			return nil, false
		}
		if args = e.flags.Args(); len(args) == 0 {
			break
		}
		rest, args = append(rest, args[0]), args[1:]
	}
	if len(rest) != n {
		e.complain("it takes %d arguments besides flags, not %d (%s); relaysim %s -h shows how", n, len(rest), strings.Join(rest, " "), e.name)
		return nil, false
	}
	return rest, true
}

// complain writes an error about the command line and returns its exit code.
func (e *env) complain(format string, args ...any) int {
	fmt.Fprintf(e.err, "relaysim %s: %s\n", e.name, fmt.Sprintf(format, args...))
	return usage
}

// rule is what a flag's value must satisfy.
type rule struct {
	ok    bool
	flag  string
	value any
	must  string
}

// check complains of each rule that is broken, and reports whether all hold.
func (e *env) check(rules ...rule) bool {
	good := true
	for _, r := range rules {
		if !r.ok {
			e.complain("-%s %v: must be %s", r.flag, r.value, r.must)
			good = false
		}
	}
	return good
}

func (e *env) worlds() int {
	if _, ok := e.parse(0); !ok {
		return e.code
	}
	fmt.Fprintln(e.out, strings.Join(sim.WorldNames(), "\n"))
	return held
}

// worldFlags adds the flags -world and -strategy.
func (e *env) worldFlags() {
	e.flags.StringVar(&e.world, "world", "registry", "`NAME` of the world: "+strings.Join(sim.WorldNames(), ", "))
	e.flags.StringVar(&e.strategy, "strategy", "mix", "`NAME` of the strategy that chooses the next task: mix, "+strings.Join(engine.Strategies, ", "))
}

// runner returns the runner for the flags. Its error names the invalid flag.
func (e *env) runner() (engine.Runner, error) {
	w, err := sim.Find(e.world)
	if err != nil {
		return engine.Runner{}, fmt.Errorf("-world: %w", err)
	}
	if err := engine.CheckStrategy(e.strategy); err != nil {
		return engine.Runner{}, fmt.Errorf("-strategy: %w", err)
	}
	return engine.Runner{World: w, Strategy: e.strategy}, nil
}
