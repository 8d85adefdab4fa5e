package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// command is the command line, as kong reads it, and what was wrong with it.
type command struct {
	Serve       options            `cmd:"" default:"withargs" help:"Run the relay. This is what happens without a command."`
	Check       check              `cmd:"" help:"Print the configuration that serve would run with, where each value comes from, and what is wrong or unusual."`
	Probe       probe              `cmd:"" help:"Open a binary and a phone on a relay, send frames both ways and tell how long they took."`
	Healthcheck healthcheck        `cmd:"" help:"Ask a running relay whether it is ready; returns 0 or 1 and says why. For images without curl."`
	Diag        diag               `cmd:"" help:"Put all that a running relay tells about itself into one zip file, without its secrets."`
	Fingerprint fingerprintCommand `cmd:"" help:"Print what the log shows for a server-id, or with --log the last lines of a running relay's log that are about it."`
	Version     versionCommand     `cmd:"" help:"Print what program this is."`
	Completion  completion         `cmd:"" help:"Print a script that completes commands and options in a shell."`
	Man         man                `cmd:"" help:"Print the manual page: pyrycode-relay man | man -l -."`

	model *kong.Application // once read

	env      *environment
	problems []config.Problem // values that could not be read
}

// versionCommand is the version command.
type versionCommand struct {
	JSON bool `of:"version" name:"json" default:"false" unit:"true or false" help:"Print one JSON object."`
}

// run prints what program this is.
func (v *versionCommand) run(b daemon.Build, out io.Writer) {
	if !v.JSON {
		fmt.Fprintln(out, "pyrycode-relay", b)
		return
	}
	_ = json.NewEncoder(out).Encode(struct { // nobody reads it
		Version   string `json:"version"`
		Revision  string `json:"revision"`
		GoVersion string `json:"goversion"`
		OS        string `json:"os"`
		Arch      string `json:"arch"`
	}{b.Version, b.Revision, b.GoVersion, runtime.GOOS, runtime.GOARCH})
}

// options are the options of serve and of the commands that read its configuration.
type options struct {
	// ConfigFile is read by the resolver, before all others are known.
	ConfigFile string `name:"config" default:"" placeholder:"FILE" unit:"file" group:"Configuration" help:"Where options come from that are neither flag nor variable: lines of option: value. It is read again on SIGHUP."`

	config.Config `embed:""`
}

const about = `Pipes frames between a binary and its phones, none of whom can reach the other.

Every option is a flag, an environment variable and a key in the file that --config names; they win in this order. A variable that is empty counts as not set. Secrets are environment variables only.`

func newCommand(environ []string) *command {
	return &command{env: newEnvironment(environ)}
}

// parse reads the command line and the environment. It returns the command
// to run, none if the help was asked for, or all that is wrong as a text for
// the user.
func (c *command) parse(args []string, b daemon.Build, stdout io.Writer) (name, problem string) {
	name, lines := c.read(args, b, stdout)
	return name, daemon.Complaint(lines)
}

// read is parse with one line for each problem.
func (c *command) read(args []string, b daemon.Build, stdout io.Writer) (name string, lines []string) {
	k, helped, err := c.parser(b, stdout)
	if err != nil {
		panic(err) // of the struct above, not of the input
	}
	c.model = k.Model
	ctx, err := k.Parse(args)
	if *helped {
		return "", nil
	}
	if f := c.env.file; f != nil {
		lines = append(lines, f.problems...)
	}
	if err != nil {
		lines = append(lines, c.sentence(err, args))
	} else {
		c.env.given(ctx)
		name, _, _ = strings.Cut(ctx.Command(), " ")
	}
	if name != "version" && name != "completion" && name != "man" {
		for _, p := range c.all(name) {
			lines = append(lines, p.Error())
		}
		lines = append(lines, c.env.unknown(names(k.Model))...)
	}
	if more := len(lines) - maxProblems; more > 0 {
		lines = append(lines[:maxProblems:maxProblems], fmt.Sprintf("and %d problems more", more))
	}
	return name, lines
}

// maxProblems is how many problems are told: a file of a megabyte may have one in
// each line, and each is a record of the log.
const maxProblems = 50

// logFormat is the format in which serve reports problems: the value of
// --log-format, also where the rest of the command line could not be read.
func (c *command) logFormat(args []string) string {
	const option = "log-format"
	for i := len(args) - 1; i >= 0; i-- { // the last one counts
		if value, ok := strings.CutPrefix(args[i], "--"+option+"="); ok {
			return value
		}
		if args[i] == "--"+option && i+1 < len(args) {
			return args[i+1]
		}
	}
	if value := c.env.vars[config.EnvName(option)]; value != "" {
		return value
	}
	if c.env.file != nil {
		return c.env.file.values[option].text
	}
	return c.Serve.LogFormat
}

// sentence is an error of kong's, which has read args, with what to do about it.
func (c *command) sentence(err error, args []string) string {
	if name, ok := strings.CutPrefix(err.Error(), "unexpected argument "); ok && len(args) > 0 && name == args[0] {
		commands := make(map[string]bool)
		for _, n := range c.model.Children {
			commands[n.Name] = true
		}
		text := fmt.Sprintf("unknown command %q; ", name)
		if near := nearest(name, commands, 0); near != "" {
			text += fmt.Sprintf("did you mean %s? ", near)
		}
		return text + "pyrycode-relay --help lists the commands"
	}
	path := "pyrycode-relay serve" // the command when none is named
	if p, ok := errors.AsType[*kong.ParseError](err); ok && p.Context != nil {
		if n := p.Context.Selected(); n != nil {
			path = n.FullPath()
		}
	}
	text := err.Error()
	for name := range secretNames() {
		text = strings.ReplaceAll(text, `"--`+name+`"`, "the environment variable "+config.EnvName(name))
	}
	return fmt.Sprintf("%s; %s --help lists what there is", text, path)
}

// secretNames returns the names of the options that come from the environment
// only.
func secretNames() map[string]bool {
	all := make(map[string]bool)
	for _, o := range config.Options() {
		if o.Secret {
			all[o.Name] = true
		}
	}
	return all
}

// parser makes the parser. helped is set when the help has been printed.
func (c *command) parser(b daemon.Build, stdout io.Writer) (k *kong.Kong, helped *bool, err error) {
	helped = new(bool)
	k, err = kong.New(c,
		kong.Name("pyrycode-relay"),
		kong.Description(about),
		kong.Writers(stdout, stdout),
		kong.Exit(func(int) { *helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Help(helpWithSecrets),
		kong.ValueFormatter(helpOf),
		kong.WithHyphenPrefixedParameters(true),
		kong.Resolvers(c.env),
		reads(c, func(text string) (string, error) { return text, nil }),
		reads(c, config.ParseDuration),
		reads(c, config.ParseInt),
		reads(c, config.ParseFloat),
		reads(c, config.ParseSize),
		kong.TypeMapper(reflect.TypeFor[bool](), boolean{c}),
	)
	if err != nil {
		return nil, helped, err
	}
	defaults := make(map[string]string)
	for _, o := range config.Options() {
		defaults[o.Name] = o.Default
	}
	for _, cmd := range k.Model.Children {
		for _, f := range cmd.Flags {
			if f.Tag.Get("relay") != "" {
				f.Default, f.HasDefault = defaults[f.Name], true // no tag has it
			}
		}
		for _, f := range secretsOf(cmd) {
			f.Hidden = true // it is refused as a flag
		}
	}
	return k, helped, nil
}

// secretsOf returns the options of a command that come from the environment
// only. To kong they are flags.
func secretsOf(cmd *kong.Node) (all []*kong.Flag) {
	for _, f := range cmd.Flags {
		if f.Tag.Get("secret") != "" {
			all = append(all, f)
		}
	}
	return all
}

// helpWithSecrets prints kong's help, and below it the options that come from
// the environment only.
func helpWithSecrets(o kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(o, ctx); err != nil {
		return err
	}
	cmd := ctx.Selected()
	if cmd == nil || len(secretsOf(cmd)) == 0 {
		return nil
	}
	fmt.Fprint(ctx.Stdout, "\nSecrets, which are environment variables only\n")
	for _, f := range secretsOf(cmd) {
		fmt.Fprintf(ctx.Stdout, "  %s\n", envName(f.Value))
		line := "     "
		for word := range strings.FieldsSeq(fmt.Sprintf("%s (%s)", f.OrigHelp, f.Tag.Get("unit"))) {
			if len(line)+1+len(word) > 80 {
				fmt.Fprintln(ctx.Stdout, line)
				line = "     "
			}
			line += " " + word
		}
		fmt.Fprintln(ctx.Stdout, line)
	}
	return nil
}

// reads makes kong read values of T with parse. What cannot be read does not
// end the reading: it is noted, so that all problems are told at once.
func reads[T string | time.Duration | int | float64 | config.Size](c *command, parse func(string) (T, error)) kong.Option {
	return kong.TypeMapper(reflect.TypeFor[T](), valueOf(c, parse))
}

// valueOf is the mapper of reads.
func valueOf[T any](c *command, parse func(string) (T, error)) kong.Mapper {
	return kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
		t := ctx.Scan.Pop()
		if t.IsEOL() {
			return errors.New("its value is missing")
		}
		text := fmt.Sprint(t.Value)
		v, err := parse(text)
		if p, ok := errors.AsType[*config.ParseError](err); ok {
			c.problems = append(c.problems, config.Problem{Option: ctx.Value.Name, Value: text, Rule: p.Rule, Fix: p.Fix})
			return nil
		}
		if err == nil {
			target.Set(reflect.ValueOf(v))
		}
		return err
	})
}

// boolean reads flags that need no value.
type boolean struct{ c *command }

// IsBool tells kong that a value is not needed.
func (boolean) IsBool() bool { return true }

// Decode implements kong.Mapper.
func (m boolean) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		target.SetBool(true)
		return nil
	}
	return valueOf(m.c, config.ParseBool).Decode(ctx, target)
}

// all returns the problems of the values of command name: those that could
// not be read, then, of the others, those that break a rule.
func (c *command) all(name string) []config.Problem {
	all := c.problems
	unread := make(map[string]bool)
	for _, p := range all {
		unread[p.Option] = true
	}
	var rules []config.Problem
	switch name {
	case "serve":
		rules = c.Serve.Config.Check()
	case "check":
		rules = c.Check.Config.Check()
	case "healthcheck":
		rules = c.Healthcheck.check()
	case "diag":
		rules = c.Diag.check()
	case "fingerprint":
		rules = c.Fingerprint.check()
	case "probe":
		rules = c.Probe.check()
	}
	for _, p := range rules {
		if !unread[p.Option] {
			all = append(all, p)
		}
	}
	for _, o := range config.Options() {
		if from := c.env.origins[o.Name]; o.Secret && (from.Flag || from.File != "") {
			all = append(all, config.Problem{Option: o.Name, Rule: "must come from the environment, as " + config.EnvName(o.Name),
				Fix: "it is a secret: other users can see a command line, and files are copied about"})
		}
	}
	for i := range all {
		all[i].Origin = c.env.origins[all[i].Option]
		if all[i].Origin.File != "" {
			all[i].Origin.Line = c.env.file.values[all[i].Option].lineOf(all[i].Value)
		}
	}
	return all
}

// helpOf is the help of one flag: what it is, its unit, its default, its
// environment variable.
func helpOf(v *kong.Value) string {
	unit := v.Tag.Get("unit")
	if unit == "" {
		return v.Help
	}
	def := v.Default
	if def == "" {
		def = "none"
	}
	return fmt.Sprintf("%s (%s; default %s; $%s)", v.Help, unit, def, envName(v))
}

// names is the environment variables of all flags.
func names(app *kong.Application) map[string]bool {
	all := make(map[string]bool)
	for _, cmd := range app.Children {
		for _, f := range cmd.Flags {
			all[envName(f.Value)] = true
		}
	}
	return all
}
