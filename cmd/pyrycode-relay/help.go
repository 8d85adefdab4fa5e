package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// helpCommand is the help command. The help has two tiers: the commands with the common
// options of serve on one screen, and every option with --all or by topic.
type helpCommand struct {
	All bool `of:"help" name:"all" unit:"true or false" help:"Print every option, not only the common ones."`
}

const (
	helpWidth  = 96 // columns
	helpIndent = 30 // columns before the text of an entry on one line
)

// run writes the help on the topic. The error is a sentence.
func (h *helpCommand) run(_ context.Context, c invocation) error {
	topic := strings.Join(c.args, " ")
	if len(c.args) == 0 {
		if h.All {
			overviewHead(c.root, c.out)
			everyOption(optionsOf(c.root), c.out)
		} else {
			overview(c.root, c.out)
		}
		return nil
	}
	if cmd, rest, err := c.root.Find(c.args); err == nil && cmd != c.root && len(rest) == 0 {
		commandHelp(cmd, h.All, c.out)
		return nil
	}
	known := topics(c.root)
	if !slices.Contains(known, strings.ToLower(topic)) {
		hint := ""
		if near := cli.Nearest(topic, slices.Values(known), 0); near != "" {
			hint = fmt.Sprintf("did you mean %s? ", near)
		}
		return cli.Usagef("no topic %.80q; %sa topic is a command, a group of options, or an option; pyrycode-relay help lists the commands and groups", topic, hint)
	}
	for _, o := range optionsOf(c.root) {
		if strings.EqualFold(o.Group, topic) || o.Name == topic {
			describe(c.out, title(o), helpOf(o))
		}
	}
	return nil
}

// topics returns the words on which there is help.
func topics(root *cobra.Command) (all []string) {
	for _, cmd := range root.Commands() {
		all = append(all, cmd.Name())
	}
	for _, o := range optionsOf(root) {
		for _, word := range []string{strings.ToLower(o.Group), o.Name} {
			if !slices.Contains(all, word) {
				all = append(all, word)
			}
		}
	}
	return all
}

// optionsOf returns the options of serve.
func optionsOf(root *cobra.Command) []*cli.Option { return cli.OptionsOf(root.Commands()[0]) }

// overview writes the first tier: the commands and the common options.
func overview(root *cobra.Command, out io.Writer) {
	overviewHead(root, out)
	common(root, out)
}

// overviewHead writes the usage and the commands.
func overviewHead(root *cobra.Command, out io.Writer) {
	fmt.Fprintf(out, "Usage: %s [command] [option …]\n\n", root.Name())
	wrap(out, "", "", root.Long)
	for _, group := range root.Groups() {
		fmt.Fprintf(out, "\n%s\n", group.Title)
		for _, cmd := range root.Commands() {
			if cmd.GroupID == group.ID {
				line(out, "  "+cmd.Name(), cmd.Short)
			}
		}
	}
}

// common writes the common options of serve, each on one line, and how to see the second
// tier of the help.
func common(root *cobra.Command, out io.Writer) {
	fmt.Fprint(out, "\nCommon options of serve\n")
	var groups []string
	for _, o := range optionsOf(root) {
		if o.Common {
			first, _, _ := strings.Cut(o.Help, ". ")
			line(out, "  "+title(o), strings.TrimSuffix(first, "."))
		}
		if g := strings.ToLower(o.Group); !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	fmt.Fprint(out, "\nMore help\n")
	line(out, "  pyrycode-relay help --all", "every option of serve")
	line(out, "  pyrycode-relay help GROUP", "one group of options: "+strings.Join(groups, ", "))
	line(out, "  pyrycode-relay help COMMAND", "one command")
	line(out, "  pyrycode-relay help OPTION", "one option, such as grace")
}

// commandHelp writes the help on one command. For a command that has the options of
// serve it writes the common ones only, unless all is true.
func commandHelp(cmd *cobra.Command, all bool, out io.Writer) {
	if !cmd.HasParent() {
		overview(cmd, out)
		return
	}
	usage, options := cmd.UseLine(), cli.OptionsOf(cmd)
	if cmd.HasSubCommands() {
		usage += " COMMAND"
	}
	if len(options) > 0 {
		usage += " [option …]"
	}
	fmt.Fprintf(out, "Usage: %s\n\n", usage)
	wrap(out, "", "", strings.TrimSpace(cmd.Short+"\n\n"+cmd.Long))
	for i, sub := range cmd.Commands() {
		if i == 0 {
			fmt.Fprintln(out)
		}
		line(out, "  "+strings.TrimPrefix(sub.UseLine(), cmd.CommandPath()+" "), sub.Short)
	}
	own := slices.DeleteFunc(slices.Clone(options), ofServe)
	if all || len(own) == len(options) {
		everyOption(options, out)
		return
	}
	everyOption(own, out)
	common(cmd.Root(), out)
}

// ofServe reports whether o is an option of the relay, which several commands have.
func ofServe(o *cli.Option) bool {
	return o.Of == "" && slices.ContainsFunc(config.Options(), func(of *cli.Option) bool { return of.Name == o.Name && of.Group == o.Group })
}

// everyOption writes options with their whole help, under the headings of their groups, with
// the secrets at the end.
func everyOption(options []*cli.Option, out io.Writer) {
	heading := ""
	for _, secrets := range []bool{false, true} {
		for _, o := range options {
			group, text := cmp.Or(o.Group, "Options"), helpOf(o)
			if secrets {
				group, text = "Secrets, which are environment variables only", fmt.Sprintf("%s (%s)", o.Help, o.Unit)
			}
			if o.Secret != secrets {
				continue
			}
			if group != heading {
				heading = group
				fmt.Fprintf(out, "\n%s\n", group)
			}
			describe(out, title(o), text)
		}
	}
}

// title returns an option in the form in which it is written, with its default or the kind
// of its value. It returns the variable of a secret.
func title(o *cli.Option) string {
	switch {
	case o.Secret:
		return o.Env
	case o.IsBool():
		return "--" + o.Name
	case o.Values != nil:
		return "--" + o.Name + "=" + o.Type()
	}
	return "--" + o.Name + "=" + cmp.Or(o.Default, o.Type())
}

// line writes a title, and its text next to it.
func line(out io.Writer, title, text string) {
	if len([]rune(title)) >= helpIndent-1 {
		fmt.Fprintln(out, title)
		title = ""
	}
	title += strings.Repeat(" ", helpIndent-len([]rune(title)))
	wrap(out, title, strings.Repeat(" ", helpIndent), text)
}

// describe writes a title, and its text below it.
func describe(out io.Writer, title, text string) {
	fmt.Fprintf(out, "  %s\n", title)
	wrap(out, "      ", "      ", text)
}

// wrap writes text in lines of at most helpWidth columns where its words allow it. first
// begins the first line, rest every other line. A blank line in text stays.
func wrap(out io.Writer, first, rest, text string) {
	for i, paragraph := range strings.Split(text, "\n\n") {
		if i > 0 {
			fmt.Fprintln(out)
			first = rest
		}
		at, empty := first, true
		for word := range strings.FieldsSeq(paragraph) {
			if !empty && len([]rune(at))+1+len([]rune(word)) > helpWidth {
				fmt.Fprintln(out, at)
				at, empty = rest, true
			}
			if !empty {
				at += " "
			}
			at, empty = at+word, false
		}
		fmt.Fprintln(out, at)
	}
}
