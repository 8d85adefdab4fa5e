package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// environment is where options come from that are not on the command line.
type environment struct {
	vars map[string]string // those that begin with daemon.EnvPrefix and are not empty
	used map[string]string // option to the variable that its value came from
}

func newEnvironment(environ []string) *environment {
	e := &environment{vars: make(map[string]string), used: make(map[string]string)}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, daemon.EnvPrefix) && value != "" {
			e.vars[name] = value
		}
	}
	return e
}

// envName is the variable of a flag. Those of a command other than serve
// carry the command's name, so that one environment can serve both.
func envName(v *kong.Value) string {
	if parent := v.Tag.Get("of"); parent != "" {
		return daemon.EnvName(parent + "-" + v.Name)
	}
	return daemon.EnvName(v.Name)
}

// Validate implements kong.Resolver. Unknown variables are told together
// with all other problems, later.
func (e *environment) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver.
func (e *environment) Resolve(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
	if f.Tag.Get("unit") == "" {
		return nil, nil // --help
	}
	name := envName(f.Value)
	value, ok := e.vars[name]
	if !ok {
		return nil, nil
	}
	e.used[f.Name] = name
	return value, nil
}

// unknown has a sentence for each variable that no flag knows: a value that
// is silently ignored is a night lost.
func (e *environment) unknown(known map[string]bool) []string {
	var lines []string
	for name := range e.vars {
		if known[name] {
			continue
		}
		line := name + ": no option has this environment variable"
		if near := nearest(name, known); near != "" {
			line += fmt.Sprintf("; did you mean %s?", near)
		} else {
			line += "; pyrycode-relay serve --help lists them"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// nearest is the known name that differs least from name, if it is near
// enough to be what was meant.
func nearest(name string, known map[string]bool) string {
	best, least := "", max(3, (len(name)-len(daemon.EnvPrefix))/2)
	for k := range known {
		if d := distance(name, k); d < least || d == least && best != "" && k < best {
			best, least = k, d
		}
	}
	return best
}

// distance is how many letters must be put in, taken out or changed to make
// a of b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
