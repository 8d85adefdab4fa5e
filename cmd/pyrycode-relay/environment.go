package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// environment has the options that are not on the command line: those of variables and,
// with a lower priority, those of the file that --config names.
type environment struct {
	vars map[string]string // those that begin with config.EnvPrefix and are not empty
	file *configFile       // nil: not read yet, or no file is named

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

// envName returns the variable of an option. For a command other than serve, the variable
// contains the name of the command, so that one environment can serve both.
func envName(o *cli.Option) string {
	if o.Of != "" {
		return config.EnvName(o.Of + "-" + o.Name)
	}
	return config.EnvName(o.Name)
}

// configOption is the flag that names the file.
const configOption = "config"

// resolve sets the options of flags that are not on the command line, from variables and
// from the file.
func (e *environment) resolve(flags *pflag.FlagSet) {
	if f := flags.Lookup(configOption); f != nil {
		name := e.vars[config.EnvName(configOption)]
		if f.Changed {
			name = f.Value.String()
		}
		if name != "" {
			e.file = readConfigFile(name, !e.again)
		}
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if o, ok := f.Value.(*cli.Option); ok && f.Changed {
			e.origins[o.Name] = config.Origin{Flag: true}
		} else if ok {
			e.set(o)
		}
	})
}

// set sets an option from its variable or, if it has none, from the file.
func (e *environment) set(o *cli.Option) {
	name := envName(o)
	text, ok := e.vars[name]
	from := config.Origin{Env: name}
	if !ok && e.file != nil && o.Of == "" {
		var value fileValue
		value, ok = e.file.values[o.Name]
		text, from = value.text, config.Origin{File: e.file.name, Line: value.line}
	}
	if ok {
		_ = o.Set(text) // what is wrong is noted in the option
		e.origins[o.Name] = from
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
		if near := cli.Nearest(name, maps.Keys(known), len(config.EnvPrefix)); near != "" {
			line += fmt.Sprintf("; did you mean %s?", near)
		} else {
			line += "; pyrycode-relay help --all lists them"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}
