package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// helpCommand is the help command. The help has two tiers: the commands with the common
// options of serve on one screen, and every option with --all or by topic.
type helpCommand struct {
	Topic []string `arg:"" optional:"" help:"A command, a group of options such as limits, or an option such as grace."`
	All   bool     `of:"help" name:"all" default:"false" unit:"true or false" help:"Print every option, not only the common ones."`
}

const (
	helpWidth  = 96 // columns
	helpIndent = 30 // columns before the text of an entry on one line
)

// run writes the help on the topic. The topic must exist, see problem.
func (h *helpCommand) run(_ context.Context, c invocation) error {
	app, out := c.app, c.out
	serve := commandOf(app, "serve")
	topic := strings.Join(h.Topic, " ")
	switch node := commandOf(app, topic); {
	case len(h.Topic) == 0 && !h.All:
		overview(app, out)
	case len(h.Topic) == 0:
		overviewHead(app, out)
		everyFlag(serve, out)
	case node != nil:
		commandHelp(node, h.All, out)
	default:
		for _, f := range visible(serve.Flags) {
			if strings.EqualFold(groupOf(f), topic) || f.Name == topic {
				describe(out, flagTitle(f), helpOf(f.Value))
			}
		}
	}
	return nil
}

// problem returns a sentence if the topic does not exist, and "" otherwise.
func (h *helpCommand) problem(app *kong.Application) string {
	topic := strings.Join(h.Topic, " ")
	known := topics(app)
	if topic == "" || slices.Contains(known, strings.ToLower(topic)) {
		return ""
	}
	text := fmt.Sprintf("help has no topic %.80q; ", topic)
	if near := nearest(topic, slices.Values(known), 0); near != "" {
		text += fmt.Sprintf("did you mean %s? ", near)
	}
	return text + "a topic is a command, a group of options, or an option; pyrycode-relay help lists the commands and groups"
}

// topics returns the words on which there is help.
func topics(app *kong.Application) (all []string) {
	for _, cmd := range app.Children {
		all = append(all, cmd.Name)
	}
	for _, f := range visible(commandOf(app, "serve").Flags) {
		for _, word := range []string{strings.ToLower(groupOf(f)), f.Name} {
			if !slices.Contains(all, word) {
				all = append(all, word)
			}
		}
	}
	return all
}

// helpPrinter prints the help that the flag --help asks for.
func helpPrinter(_ kong.HelpOptions, ctx *kong.Context) error {
	if node := ctx.Selected(); node != nil {
		commandHelp(node, false, ctx.Stdout)
	} else {
		overview(ctx.Model, ctx.Stdout)
	}
	return nil
}

// commandOf returns the command with this name, or nil.
func commandOf(app *kong.Application, name string) *kong.Node {
	i := slices.IndexFunc(app.Children, func(n *kong.Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return app.Children[i]
}

// visible returns the flags that the help has: all but --help, and the secrets, which
// are variables.
func visible(flags []*kong.Flag) (all []*kong.Flag) {
	for _, f := range flags {
		if f.Name != "help" && (!f.Hidden || isSecret(f)) {
			all = append(all, f)
		}
	}
	return all
}

// isSecret reports whether f comes from the environment only. To kong it is a flag.
func isSecret(f *kong.Flag) bool { return f.Tag.Get("secret") != "" }

// groupOf returns the heading of f in the help.
func groupOf(f *kong.Flag) string { return cmp.Or(f.Tag.Get("group"), "Options") }

// overview writes the first tier: the commands and the common options.
func overview(app *kong.Application, out io.Writer) {
	overviewHead(app, out)
	serve := commandOf(app, "serve")
	commonFlags(serve, out)
	more(serve, out)
}

// overviewHead writes the usage and the commands.
func overviewHead(app *kong.Application, out io.Writer) {
	fmt.Fprintf(out, "Usage: %s [command] [option …]\n\n", app.Name)
	wrap(out, "", "", app.Help)
	heading := ""
	for _, cmd := range grouped(app.Children) {
		if title := groupOfCommand(cmd); title != heading {
			heading = title
			fmt.Fprintf(out, "\n%s\n", title)
		}
		line(out, "  "+cmd.Name, cmd.Help)
	}
}

// groupOfCommand returns the heading of a command in the overview.
func groupOfCommand(cmd *kong.Node) string {
	if cmd.Group != nil {
		return cmd.Group.Title
	}
	return "Others"
}

// grouped returns the commands in the order of their groups, the first command of each
// group first.
func grouped(cmds []*kong.Node) []*kong.Node {
	first := make(map[string]int)
	for i, cmd := range cmds {
		if _, ok := first[groupOfCommand(cmd)]; !ok {
			first[groupOfCommand(cmd)] = i
		}
	}
	return slices.SortedStableFunc(slices.Values(cmds), func(a, b *kong.Node) int { return first[groupOfCommand(a)] - first[groupOfCommand(b)] })
}

// commonFlags writes the common options of a command that has those of serve, each on
// one line.
func commonFlags(cmd *kong.Node, out io.Writer) {
	fmt.Fprint(out, "\nCommon options of serve\n")
	for _, f := range visible(cmd.Flags) {
		if f.Tag.Get("common") != "" {
			first, _, _ := strings.Cut(f.Help, ". ")
			line(out, "  "+flagTitle(f), strings.TrimSuffix(first, "."))
		}
	}
}

// more writes how to see the second tier of the help of serve.
func more(serve *kong.Node, out io.Writer) {
	var groups []string
	for _, f := range visible(serve.Flags) {
		if g := strings.ToLower(groupOf(f)); !slices.Contains(groups, g) {
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
func commandHelp(cmd *kong.Node, all bool, out io.Writer) {
	fmt.Fprintf(out, "Usage: %s\n\n", usage(cmd))
	wrap(out, "", "", cmd.Help)
	for _, p := range cmd.Positional {
		fmt.Fprintln(out)
		line(out, "  "+p.Summary(), p.Help)
	}
	own := slices.DeleteFunc(visible(cmd.Flags), ofServe)
	if all || len(own) == len(visible(cmd.Flags)) {
		everyFlag(cmd, out)
		return
	}
	flagsByGroup(own, out)
	commonFlags(cmd, out)
	more(cmd, out)
}

// usage returns the usage line of a command.
func usage(cmd *kong.Node) string {
	text := cmd.FullPath()
	for _, p := range cmd.Positional {
		text += " " + p.Summary()
	}
	if len(visible(cmd.Flags)) > 0 {
		text += " [option …]"
	}
	return text
}

// ofServe reports whether f is an option of the relay, which several commands have.
func ofServe(f *kong.Flag) bool {
	return f.Tag.Get("of") == "" && slices.ContainsFunc(config.Options(), func(o config.Option) bool { return o.Name == f.Name && o.Group == f.Tag.Get("group") })
}

// everyFlag writes every flag of a command, with the secrets at the end.
func everyFlag(cmd *kong.Node, out io.Writer) {
	flags := visible(cmd.Flags)
	flagsByGroup(slices.DeleteFunc(slices.Clone(flags), isSecret), out)
	if secrets := secretsOf(cmd); len(secrets) > 0 {
		fmt.Fprint(out, "\nSecrets, which are environment variables only\n")
		for _, f := range secrets {
			describe(out, envName(f.Value), fmt.Sprintf("%s (%s)", f.OrigHelp, f.Tag.Get("unit")))
		}
	}
}

// flagsByGroup writes flags with their whole help, under the headings of their groups.
func flagsByGroup(flags []*kong.Flag, out io.Writer) {
	heading := ""
	for _, f := range flags {
		if g := groupOf(f); g != heading {
			heading = g
			fmt.Fprintf(out, "\n%s\n", g)
		}
		describe(out, flagTitle(f), helpOf(f.Value))
	}
}

// flagTitle returns a flag in the form in which it is written, with its default or the
// kind of its value. It returns the variable of a secret.
func flagTitle(f *kong.Flag) string {
	value := f.Default
	if values := f.Tag.Get("values"); values != "" {
		value = strings.ReplaceAll(values, ",", "|")
	} else if value == "" {
		kind, _, _ := strings.Cut(f.Tag.Get("unit"), ",")
		value = cmp.Or(f.Tag.Get("placeholder"), strings.ToUpper(strings.ReplaceAll(kind, " ", "-")))
	}
	switch {
	case isSecret(f):
		return envName(f.Value)
	case f.IsBool() || value == "":
		return "--" + f.Name
	}
	return "--" + f.Name + "=" + value
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
