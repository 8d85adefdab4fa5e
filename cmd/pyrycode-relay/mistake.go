package main

import (
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

var (
	unexpectedArgument = regexp.MustCompile(`^unexpected argument (.+?)(?:, did you mean .*)?$`)
	unknownFlag        = regexp.MustCompile(`^unknown flag (-\S+?)(?:, did you mean .*)?$`)
)

// usageError is an error of the command line that only the command itself can notice. The
// exit code is then that of every other mistake of the command line.
type usageError struct{ error }

// usagef returns a usageError with a text as of fmt.Errorf.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// problems are what is wrong with the options of a command.
type problems []config.Problem

// unless adds a problem if ok is false.
func (p *problems) unless(ok bool, option string, value any, rule, fix string) {
	if !ok {
		*p = append(*p, config.Problem{Option: option, Value: fmt.Sprint(value), Rule: rule, Fix: fix})
	}
}

// valueProblems returns a problem for each flag of cmd that has a value outside of its
// list of values.
func valueProblems(cmd *kong.Node) (all []config.Problem) {
	for _, f := range cmd.Flags {
		values := strings.Split(f.Tag.Get("values"), ",")
		got := f.Target.String()
		if len(values) < 2 || f.Tag.Get("relay") != "" || got == "" && f.Default == "" || slices.Contains(values, got) {
			continue
		}
		last := len(values) - 1
		p := config.Problem{Option: f.Name, Value: got, Rule: "must be " + strings.Join(values[:last], ", ") + " or " + values[last]}
		switch near := nearest(got, slices.Values(values), 0); {
		case near != "":
			p.Fix = "did you mean " + near + "?"
		case f.Default != "":
			p.Fix = "the default is " + f.Default
		default:
			p.Fix = "leave it out for all"
		}
		all = append(all, p)
	}
	return all
}

// sentence returns err, which kong has returned for args, as a sentence for the user: the
// wrong word, the word that was probably meant, and the command that lists the valid ones.
func (c *command) sentence(err error, args []string) string {
	node := commandOf(c.model, "serve") // the command when none is named
	if p, ok := errors.AsType[*kong.ParseError](err); ok && p.Context != nil && p.Context.Selected() != nil {
		node = p.Context.Selected()
	}
	lists := fmt.Sprintf("; %s --help lists what there is", node.FullPath())
	if node.Name == "serve" {
		lists = "; pyrycode-relay help --all lists the options"
	}
	if m := unexpectedArgument.FindStringSubmatch(err.Error()); m != nil {
		if len(args) > 0 && m[1] == args[0] {
			return c.unknownCommand(m[1])
		}
		return c.unexpected(node, m[1]) + lists
	}
	if m := unknownFlag.FindStringSubmatch(err.Error()); m != nil {
		return c.unknownFlag(node, m[1], args) + lists
	}
	return err.Error() + lists
}

// unknownCommand returns a sentence about a word that is no command.
func (c *command) unknownCommand(word string) string {
	text := fmt.Sprintf("unknown command %q; ", word)
	if near := nearest(word, each(c.model.Children, func(n *kong.Node) string { return n.Name }), 0); near != "" {
		text += fmt.Sprintf("did you mean %s? ", near)
	}
	return text + "pyrycode-relay help lists the commands"
}

// each returns the names of all.
func each[T any](all []T, name func(T) string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, v := range all {
			if !yield(name(v)) {
				return
			}
		}
	}
}

// unexpected returns a sentence about an argument that node does not take.
func (c *command) unexpected(node *kong.Node, word string) string {
	text := "unexpected argument " + word
	if name, _, ok := strings.Cut(word, "="); ok && flagOf(node, name) != nil {
		return fmt.Sprintf("%s; did you mean --%s?", text, word)
	}
	if commandOf(c.model, word) != nil {
		return fmt.Sprintf("%s: the command must be the first argument, pyrycode-relay %s …", text, word)
	}
	return text
}

// flagOf returns the flag of cmd with this name, or nil.
func flagOf(cmd *kong.Node, name string) *kong.Flag {
	i := slices.IndexFunc(cmd.Flags, func(f *kong.Flag) bool { return f.Name == name })
	if i < 0 {
		return nil
	}
	return cmd.Flags[i]
}

// unknownFlag returns a sentence about a flag that node does not have. In args it may be
// longer: kong reads -grace as -g.
func (c *command) unknownFlag(node *kong.Node, flag string, args []string) string {
	if !strings.HasPrefix(flag, "--") {
		for _, a := range args {
			name, _, _ := strings.Cut(strings.TrimPrefix(a, "-"), "=")
			if strings.HasPrefix(a, flag) && flagOf(node, name) != nil {
				return fmt.Sprintf("unknown flag -%s; did you mean --%[1]s, with two dashes?", name)
			}
		}
		return "unknown flag " + flag
	}
	name := strings.TrimPrefix(flag, "--")
	switch near := nearest(name, each(node.Flags, func(f *kong.Flag) string { return f.Name }), 0); {
	case near != "" && secretNames()[near]:
		return fmt.Sprintf("unknown flag %s; did you mean the environment variable %s?", flag, config.EnvName(near))
	case near != "":
		return fmt.Sprintf("unknown flag %s; did you mean --%s?", flag, near)
	}
	for _, cmd := range c.model.Children {
		if f := flagOf(cmd, name); f != nil {
			return fmt.Sprintf("unknown flag %s, which is an option of %s and not of %s", flag, cmd.Name, node.Name)
		}
	}
	return "unknown flag " + flag
}
