package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// check is the check command. It reports how serve would run, and starts nothing.
type check struct {
	options `embed:""`

	JSON    bool `of:"check" name:"json" default:"false" unit:"true or false" group:"Output" help:"Print one JSON object."`
	Quiet   bool `of:"check" name:"quiet" default:"false" unit:"true or false" group:"Output" help:"Print only what is unusual or wrong: for a journal."`
	Example bool `of:"check" name:"example" default:"false" unit:"true or false" group:"Output" help:"Print a configuration with a comment for each option, and check nothing: pyrycode-relay check --example >relay.yml."`
}

// checked is the report of check.
type checked struct {
	OK      bool             `json:"ok"`
	Options []config.Setting `json:"options"`
	config.Findings
}

// run prints the report and returns whether serve can run with the configuration. e is
// the environment of the options. problems are the errors found before their validation.
func (c *check) run(ctx context.Context, e *environment, problems []string, out io.Writer) (ok bool) {
	if c.Example && len(problems) == 0 {
		exampleConfig(out, nil)
		return true
	}
	r := checked{Options: c.Config.Settings(e.origins)}
	if len(problems) == 0 {
		r.Findings = c.Config.Inspect(ctx)
		if f := e.file; f != nil && len(f.values) == 0 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("--config %q sets no option: a relay that runs with options from this file refuses a reload", f.name))
		}
	} else {
		r.Findings = config.Findings{Problems: problems, Warnings: []string{}, Notes: []string{}}
	}
	r.OK = len(r.Problems) == 0
	if c.JSON {
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		_ = e.Encode(r) // an error means that the output is closed
		return r.OK
	}
	if c.Quiet {
		r.Notes = nil
	}
	if len(problems) == 0 && !c.Quiet { // with problems, some values could not be read
		t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "OPTION\tVALUE\tFROM")
		for _, s := range r.Options {
			value := s.Value
			if value == "" {
				value = "–"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\n", s.Name, value, s.From)
		}
		_ = t.Flush()
		fmt.Fprintln(out)
	}
	for _, group := range []struct {
		title string
		lines []string
	}{{"well", r.Notes}, {"unusual", r.Warnings}, {"wrong", r.Problems}} {
		for _, l := range group.lines {
			fmt.Fprintf(out, "%-8s %s\n", group.title, strings.ReplaceAll(l, "\n", "\n         "))
		}
	}
	switch n := len(r.Problems); {
	case n == 1:
		fmt.Fprintln(out, "\nThe relay would not run: one thing is wrong.")
	case n > 1:
		fmt.Fprintf(out, "\nThe relay would not run: %d things are wrong.\n", n)
	case !c.Quiet:
		fmt.Fprintln(out, "\nThe relay would run.")
	}
	return r.OK
}
