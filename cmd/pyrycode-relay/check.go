package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// check is the check command. It reports how serve would run, and starts nothing.
type check struct {
	options

	JSON    bool `of:"check" name:"json" unit:"true or false" group:"Output" help:"Print one JSON object."`
	Quiet   bool `of:"check" name:"quiet" unit:"true or false" group:"Output" help:"Print only what is unusual or wrong: for a journal."`
	Example bool `of:"check" name:"example" unit:"true or false" group:"Output" help:"Print a configuration with a comment for each option, and check nothing: pyrycode-relay check --example >relay.yml."`
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

const exampleHead = `# The configuration of pyrycode-relay: one line for each option, without which the option has
# its default. A line that begins with a hash is a comment; take the hash of an option away
# to set it.
#
#   pyrycode-relay check --config FILE    says what is wrong in this file
#   pyrycode-relay serve --config FILE    runs a relay with it
#
# SIGHUP (systemctl reload) applies the options with [reload]; the others need a restart.
`

// exampleUse describes one use of the relay, with the options that it needs.
var exampleUse = []struct{ title, lines string }{
	{"On the open internet, with a certificate of its own:", "listen: :443\ndomain: relay.example.com\nacme-dir: /var/lib/pyrycode-relay/acme"},
	{"Behind a proxy that terminates TLS:", "listen: 10.0.0.5:8080\ninsecure: true\ntrusted-proxies: 10.0.0.0/24"},
	{"On this machine only, also behind a proxy on it:", "listen: 127.0.0.1:8080"},
}

// exampleConfig writes a configuration with a comment for each option. The options in set
// have the values there. All others are comments with their default.
func exampleConfig(out io.Writer, set map[string]string) {
	fmt.Fprint(out, exampleHead)
	for _, u := range exampleUse {
		fmt.Fprintf(out, "#\n# %s\n#   %s\n", u.title, strings.ReplaceAll(u.lines, "\n", "\n#   "))
	}
	group := ""
	for _, o := range config.Options() {
		if o.Secret {
			continue // it is refused in a file
		}
		if o.Group != group {
			group = o.Group
			fmt.Fprintf(out, "\n## %s\n", group)
		}
		exampleOption(out, o, set)
	}
	fmt.Fprint(out, "\n## Secrets are environment variables only\n")
	for _, o := range config.Options() {
		if o.Secret {
			fmt.Fprintln(out, "#")
			wrap(out, "# "+config.EnvName(o.Name)+": ", "# ", o.Help)
		}
	}
}

// exampleOption writes one option with its comment.
func exampleOption(out io.Writer, o *cli.Option, set map[string]string) {
	var notes []string
	if o.Values == nil && o.Unit != "" {
		notes = append(notes, o.Unit)
	}
	if o.Values != nil {
		notes = append(notes, strings.Join(o.Values, ", "))
	}
	if o.Most != "" {
		notes = append(notes, fmt.Sprintf("from %s to %s", o.Least, o.Most))
	}
	if o.Reload {
		notes = append(notes, "[reload]")
	}
	fmt.Fprintln(out)
	wrap(out, "# ", "# ", o.Help+" ("+strings.Join(notes, "; ")+")")
	value, ok := set[o.Name]
	hash := "#"
	if ok {
		hash = ""
	} else {
		value = o.Default
	}
	fmt.Fprintf(out, "%s%s: %s\n", hash, o.Name, quotedIfNeeded(value))
}

// quotedIfNeeded returns value in a form that YAML reads as this text.
func quotedIfNeeded(value string) string {
	if value == "" || slices.Contains([]byte(`*&!|>%@[]{},?-"'#`+"`"), value[0]) || strings.Contains(value, ": ") || strings.HasSuffix(value, ":") || strings.Contains(value, " #") {
		return fmt.Sprintf("%q", value)
	}
	return value
}
