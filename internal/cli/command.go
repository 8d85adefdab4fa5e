package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// UsageError is a mistake on the command line.
type UsageError struct{ error }

// Usagef returns a UsageError with a text as of fmt.Errorf.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// Selection is the command that a command line selects. It is an error only to cobra.
type Selection struct {
	error
	Command *cobra.Command
	Options any // as given to [Command]
	Args    []string
}

// Command returns a command. use is its name and the names of its arguments: "kick WHAT",
// or "help [TOPIC…]" for any number of them. options points to the struct of its options,
// or is nil.
func Command(use, help string, options any) *cobra.Command {
	c := newCommand(use, help, arguments)
	c.RunE = func(_ *cobra.Command, args []string) error {
		return Selection{Command: c, Options: options, Args: args}
	}
	flags := c.Flags()
	if options == nil {
		return c
	}
	aliases := make(map[string]string)
	for _, o := range Options(options) {
		f := flags.VarPF(o, o.Name, o.Short, o.Help)
		f.Hidden = o.Secret
		if o.IsBool() {
			f.NoOptDefVal = "true"
		}
		if o.Required {
			_ = c.MarkFlagRequired(o.Name) // the flag exists
		}
		aliases[o.Alias] = o.Name
	}
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if of, ok := aliases[name]; ok {
			name = of
		}
		return pflag.NormalizedName(name)
	})
	return c
}

func newCommand(use, help string, args cobra.PositionalArgs) *cobra.Command {
	c := &cobra.Command{Use: use, Short: help, Args: args, ValidArgsFunction: cobra.NoFileCompletions, DisableFlagsInUseLine: true}
	c.Flags().SortFlags = false
	c.Flags().Bool("help", false, "Print this help.")
	return c
}

// Group returns a command that only contains the given ones.
func Group(name, help string, commands ...*cobra.Command) *cobra.Command {
	c := newCommand(name, help, cobra.ArbitraryArgs)
	c.RunE, c.FParseErrWhitelist.UnknownFlags = noCommand, true // they belong to the command that is missing
	c.AddCommand(commands...)
	return c
}

// Hidden returns c, which is now in no help.
func Hidden(c *cobra.Command) *cobra.Command {
	c.Hidden = true
	return c
}

// The commands stay in the order of the program. cobra keeps this setting in a variable of its
// package.
func init() { cobra.EnableCommandSorting = false }

// Root returns the command of a whole program, which writes help to stdout. cobra adds the
// command completion, and the command help if there is none.
func Root(name, about string, stdout io.Writer, commands ...*cobra.Command) *cobra.Command {
	c := Group(name, "", commands...)
	c.Long, c.SilenceErrors, c.SilenceUsage = about, true, true
	c.SetFlagErrorFunc(flagError)
	c.SetOut(stdout)
	c.SetErr(io.Discard) // for cobra's notes about completion; errors are returned
	c.InitDefaultCompletionCmd()
	completion(c, stdout)
	return c
}

// Parse reads a command line. The selection has no command if the help or the words of a
// shell were asked for, and were written. With an error, which is a sentence, it has the
// command in which the mistake is.
func Parse(root *cobra.Command, args []string) (Selection, error) {
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		complete(root)
	}
	root.SetArgs(args)
	c, err := root.ExecuteC()
	if s, ok := errors.AsType[Selection](err); ok {
		return s, nil
	}
	if err != nil {
		return Selection{Command: c}, UsageError{err}
	}
	return Selection{}, nil
}

// OptionsOf returns the options of a command, in the order of the fields.
func OptionsOf(c *cobra.Command) (all []*Option) {
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if o, ok := f.Value.(*Option); ok {
			all = append(all, o)
		}
	})
	return all
}

// Invalid returns an error with the options of a command that have no valid value, or nil.
func Invalid(c *cobra.Command) error {
	var all []string
	for _, o := range OptionsOf(c) {
		if o.Invalid != nil {
			all = append(all, fmt.Sprintf("--%s %q: %v", o.Name, o.Text, o.Invalid))
		}
	}
	if all == nil {
		return nil
	}
	return mistake(c, "%s", strings.Join(all, "\n  "))
}

// Leaves returns the commands below c that have no commands themselves.
func Leaves(c *cobra.Command) (all []*cobra.Command) {
	for _, sub := range c.Commands() {
		if sub.HasSubCommands() {
			all = append(all, Leaves(sub)...)
		} else if !sub.Hidden {
			all = append(all, sub)
		}
	}
	return all
}

// Lists is the annotation of a command that says where its users find what is valid, if
// that is not the option --help.
const Lists = "lists"

// mistake returns an error: a sentence, and behind it where users of c find what is valid.
func mistake(c *cobra.Command, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if !strings.HasSuffix(text, "?") {
		text += ";"
	}
	return errors.New(text + " " + cmp.Or(c.Annotations[Lists], c.CommandPath()+" --help lists what there is"))
}

// noCommand returns the error for a command line that ends at a group, or has another word
// in the place of a command.
func noCommand(c *cobra.Command, args []string) error {
	_, group, _ := strings.Cut(c.CommandPath(), " ")
	if len(args) == 0 {
		return mistake(c, "%s needs a command", cmp.Or(group, c.Name()))
	}
	var names []string
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			names = append(names, sub.Name())
		}
	}
	if near := Nearest(args[0], slices.Values(names), 0); near != "" {
		return mistake(c, "unknown command %.80q; did you mean %s?", args[0], strings.TrimSpace(group+" "+near))
	}
	return mistake(c, "unknown command %.80q", args[0])
}

// arguments checks the number of arguments of a command.
func arguments(c *cobra.Command, args []string) error {
	names := strings.Fields(c.Use)[1:]
	switch {
	case len(args) < len(names) && !strings.HasPrefix(names[len(args)], "["):
		return mistake(c, "the argument %s is missing", names[len(args)])
	case len(args) <= len(names) || len(names) > 0 && strings.HasSuffix(names[len(names)-1], "…]"):
		return nil
	}
	word := args[len(names)]
	if name, _, ok := strings.Cut(word, "="); ok && c.Flags().Lookup(name) != nil {
		return mistake(c, "unexpected argument %s; did you mean --%[1]s?", word)
	}
	if slices.ContainsFunc(c.Root().Commands(), func(sub *cobra.Command) bool { return sub.Name() == word }) {
		return mistake(c, "unexpected argument %s: the command must be the first argument, %s %[1]s …", word, c.Root().Name())
	}
	if len(names) > 0 {
		return mistake(c, "unexpected argument %.80q; put quotes around an argument with spaces", word)
	}
	return mistake(c, "unexpected argument %.80q", word)
}

// flagError returns err, which pflag has returned for an option of c, as a sentence with
// the option that was probably meant.
func flagError(c *cobra.Command, err error) error {
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return mistake(c, "--%s: its value is missing", e.GetFlag().Name)
	}
	if errors.Is(err, pflag.ErrHelp) {
		return err // -h behind one dash, as in -help; cobra then prints the help
	}
	e, ok := errors.AsType[*pflag.NotExistError](err)
	if !ok {
		return mistake(c, "%v", err)
	}
	if short := e.GetSpecifiedShortnames(); short != "" {
		if name, _, _ := strings.Cut(short, "="); c.Flags().Lookup(name) != nil {
			return mistake(c, "unknown flag -%s; did you mean --%[1]s, with two dashes?", name)
		}
		return mistake(c, "unknown flag -%s", short)
	}
	name := e.GetSpecifiedName()
	options := OptionsOf(c)
	names := make([]string, len(options))
	for i, o := range options {
		names[i] = o.Name
	}
	if near := Nearest(name, slices.Values(names), 0); near != "" {
		if o := options[slices.Index(names, near)]; o.Secret {
			return mistake(c, "unknown flag --%s; did you mean the environment variable %s?", name, o.Env)
		}
		return mistake(c, "unknown flag --%s; did you mean --%s?", name, near)
	}
	for _, other := range Leaves(c.Root()) {
		if other.Flags().Lookup(name) != nil {
			_, path, _ := strings.Cut(other.CommandPath(), " ")
			return mistake(c, "unknown flag --%s, which is an option of %s and not of %s", name, path, c.Name())
		}
	}
	return mistake(c, "unknown flag --%s", name)
}

// Nearest returns the known name that differs least from name, or "" if none is similar
// enough. All names have the first shared letters in common.
func Nearest(name string, known iter.Seq[string], shared int) string {
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
