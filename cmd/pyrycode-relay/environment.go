package main

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// environment has the options that are not on the command line: those of variables and,
// with a lower priority, those of the file that --config names.
type environment struct {
	vars map[string]string // those that begin with config.EnvPrefix and are not empty
	file *configFile       // nil: not read yet, or no file is named
	read bool              // file is final

	again bool // the process is running: the file must be one that can be read again

	origins config.Origins // of options that do not have their default
}

func newEnvironment(environ []string) *environment {
	e := &environment{vars: make(map[string]string), origins: make(config.Origins)}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, config.EnvPrefix) && value != "" {
			e.vars[name] = value
		}
	}
	return e
}

// envName returns the variable of a flag. For a command other than serve, the variable
// contains the name of the command, so that one environment can serve both.
func envName(v *kong.Value) string {
	if parent := v.Tag.Get("of"); parent != "" {
		return config.EnvName(parent + "-" + v.Name)
	}
	return config.EnvName(v.Name)
}

// Validate implements kong.Resolver. Unknown variables are reported later, together with
// all other problems.
func (e *environment) Validate(*kong.Application) error { return nil }

// configOption is the flag that names the file.
const configOption = "config"

// Resolve implements kong.Resolver. A variable has priority over the file.
func (e *environment) Resolve(ctx *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
	if f.Tag.Get("unit") == "" {
		return nil, nil // --help
	}
	name := envName(f.Value)
	if value, ok := e.vars[name]; ok {
		e.origins[f.Name] = config.Origin{Env: name}
		return value, nil
	}
	if f.Tag.Get("of") != "" || f.Name == configOption {
		return nil, nil
	}
	e.open(ctx)
	if e.file == nil {
		return nil, nil
	}
	value, ok := e.file.values[f.Name]
	if !ok {
		return nil, nil
	}
	e.origins[f.Name] = config.Origin{File: e.file.name, Line: value.line}
	return value.text, nil
}

// open reads the file once, if one is named.
func (e *environment) open(ctx *kong.Context) {
	if e.read {
		return
	}
	e.read = true
	name := e.vars[config.EnvName(configOption)]
	for _, p := range ctx.Path {
		if p.Flag != nil && p.Flag.Name == configOption && !p.Resolved {
			name = fmt.Sprint(ctx.FlagValue(p.Flag))
		}
	}
	if name != "" {
		e.file = readConfigFile(name, !e.again)
	}
}

// given records the flags of the command line.
func (e *environment) given(ctx *kong.Context) {
	for _, p := range ctx.Path {
		if p.Flag != nil && !p.Resolved && p.Flag.Tag.Get("unit") != "" {
			e.origins[p.Flag.Name] = config.Origin{Flag: true}
		}
	}
}

// unknown returns a sentence for each variable that belongs to no flag. A variable that
// is ignored without a message is hard to find.
func (e *environment) unknown(known map[string]bool) []string {
	var lines []string
	for name := range e.vars {
		if known[name] {
			continue
		}
		line := name + ": no option has this environment variable"
		if near := nearest(name, maps.Keys(known), len(config.EnvPrefix)); near != "" {
			line += fmt.Sprintf("; did you mean %s?", near)
		} else {
			line += "; pyrycode-relay help --all lists them"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

// nearest returns the known name that differs least from name, or "" if none is similar
// enough. All names have the first shared letters in common.
func nearest(name string, known iter.Seq[string], shared int) string {
	best, least := "", max(3, (len(name)-shared)/2)
	for k := range known {
		if d := distance(name, k); d < least || d == least && best != "" && k < best {
			best, least = k, d
		}
	}
	return best
}

// distance returns the number of letters to insert, delete or change to turn b into a.
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
