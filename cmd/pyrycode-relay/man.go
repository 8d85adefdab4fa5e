package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
)

// man is the man command: it prints the manual page, in the form of man(7).
type man struct{}

// run writes the page. Its content comes from the help of the commands and flags.
func (man) run(_ context.Context, c invocation) error {
	p := page{c.out}
	p.f(".TH PYRYCODE\\-RELAY 1 \"\" %s", quoted("pyrycode-relay "+c.build.Version))
	p.section("NAME")
	p.f("pyrycode\\-relay \\- forwards frames between a binary and its phones")
	p.section("SYNOPSIS")
	p.f(".B pyrycode\\-relay\n.RI [ command ]\n.RI [ option \\~...]")
	p.section("DESCRIPTION")
	for text := range strings.SplitSeq(c.root.Long, "\n\n") {
		p.f(".PP\n%s", roff(text))
	}
	p.section("COMMANDS")
	for _, cmd := range cli.Leaves(c.root) {
		_, use, _ := strings.Cut(cmd.UseLine(), " ")
		p.item(use, cmd.Short)
	}
	ofServe := make(map[string]bool)
	for i, cmd := range cli.Leaves(c.root) {
		group := "-"
		for _, o := range cli.OptionsOf(cmd) {
			if i > 0 && ofServe[o.Name] {
				continue
			}
			ofServe[o.Name] = ofServe[o.Name] || i == 0
			if group == "-" {
				_, name, _ := strings.Cut(cmd.CommandPath(), " ")
				p.section("OPTIONS OF " + strings.ToUpper(name))
				group = ""
			}
			if o.Group != group {
				group = o.Group
				p.f(".SS %s", roff(group))
			}
			name := "--" + o.Name
			if o.Secret {
				name = "$" + o.Env // it is a variable only
			}
			p.item(name, helpOf(o))
		}
	}
	p.section("SIGNALS")
	p.item("SIGTERM, SIGINT", "Drain: refuse new connections, close the existing ones, and end. A second signal ends the process immediately.")
	p.item("SIGHUP", "Read the file, the certificate and the web configuration again. What is wrong changes nothing.")
	p.section("EXIT STATUS")
	p.item("0", "All is well; serve was asked to end.")
	p.item("1", "It failed; the last line says why.")
	p.item("2", "The command line or the configuration is refused; all that is wrong has been told.")
	p.section("SEE ALSO")
	p.f("%s", roff("docs/operate.md, docs/runbook.md and docs/protocol.md, which came with this program; https://github.com/pyrycode/pyrycode-relay"))
	return nil
}

// page writes macros of man(7).
type page struct{ io.Writer }

func (p page) f(format string, a ...any) { fmt.Fprintf(p, format+"\n", a...) }

func (p page) section(name string) { p.f(".SH %s", quoted(name)) }

// item writes a paragraph with name in bold at its head.
func (p page) item(name, text string) { p.f(".TP\n.B %s\n%s", roff(name), roff(text)) }

// roff returns text with all special characters of roff escaped.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n", " ").Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}

// quoted returns text as one argument of a macro.
func quoted(text string) string { return `"` + strings.ReplaceAll(roff(text), `"`, `\(dq`) + `"` }
