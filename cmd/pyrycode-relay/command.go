package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// command is the command line, as kong parses it, with its problems.
type command struct {
	Serve       options            `cmd:"" default:"withargs" group:"Run" help:"Run the relay. This is what happens without a command."`
	Check       check              `cmd:"" group:"Run" help:"Print the configuration that serve would run with, where each value comes from, and what is wrong or unusual. With --example: print a configuration to begin with."`
	Install     installCommand     `cmd:"" group:"Run" help:"Install the relay as a service of systemd and start it. With --dry-run: print the steps."`
	Uninstall   uninstallCommand   `cmd:"" group:"Run" help:"Stop the service, and remove what install has created."`
	Probe       probe              `cmd:"" group:"Observe" help:"Open a binary and a phone on a relay, send frames both ways, and print how long they took."`
	Healthcheck healthcheck        `cmd:"" group:"Observe" help:"Ask a running relay whether it is ready, and return 0 or 1 with the reason. For images without curl."`
	Diag        diag               `cmd:"" group:"Observe" help:"Write a running relay's state into a zip file, without secrets."`
	Fingerprint fingerprintCommand `cmd:"" group:"Observe" help:"Print the form of a server-id in the log, or with --log the last lines about it in a running relay's log."`
	Ps          ps                 `cmd:"" group:"Observe" help:"List the connections of a running relay, with their traffic."`
	Top         top                `cmd:"" group:"Observe" help:"Show the connections with the most traffic, again and again."`
	Access      accessCommand      `cmd:"" group:"Control" help:"Show and change which server-ids or tokens may use a relay: add, remove, list, token add, token remove."`
	Kick        kick               `cmd:"" group:"Control" help:"Close the connections of a server-id or network. They may return."`
	Ban         ban                `cmd:"" group:"Control" help:"Close them, and refuse the server-id or network for a time."`
	Unban       unban              `cmd:"" group:"Control" help:"Lift a ban."`
	Bans        bans               `cmd:"" group:"Control" help:"List the bans in force."`
	Cluster     clusterCommand     `cmd:"" group:"Control" help:"List and remove members of a cluster: members, remove NAME."`
	Help        helpCommand        `cmd:"" group:"This program" help:"Print this help, or with --all every option, or the help on a command, a group of options, or one option."`
	Version     versionCommand     `cmd:"" group:"This program" help:"Print the version of this program."`
	Completion  completion         `cmd:"" group:"This program" help:"Print a script that completes commands and options in a shell."`
	Man         man                `cmd:"" group:"This program" help:"Print the manual page: pyrycode-relay man | man -l -."`

	model    *kong.Application // once read
	selected any               // the command, one of the fields above; nil: the command line could not be read

	env      *environment
	problems []config.Problem // values that could not be read
}

// versionCommand is the version command.
type versionCommand struct {
	JSON bool `of:"version" name:"json" default:"false" unit:"true or false" help:"Print one JSON object."`
}

// run prints what program this is.
func (v *versionCommand) run(_ context.Context, c invocation) error {
	b := c.build
	if !v.JSON {
		fmt.Fprintln(c.out, "pyrycode-relay", b)
		return nil
	}
	_ = json.NewEncoder(c.out).Encode(struct { // an error means that the output is closed
		Version   string `json:"version"`
		Revision  string `json:"revision"`
		GoVersion string `json:"goversion"`
		OS        string `json:"os"`
		Arch      string `json:"arch"`
		Cluster   bool   `json:"cluster"`
	}{b.Version, b.Revision, b.GoVersion, runtime.GOOS, runtime.GOARCH, b.Cluster})
	return nil
}

// options are the options of serve and of the commands that read its configuration.
type options struct {
	// ConfigFile is read by the resolver, before all others are known.
	ConfigFile string `name:"config" default:"" placeholder:"FILE" unit:"file" group:"Configuration" help:"Where options come from that are neither flag nor variable: lines of option: value. It is read again on SIGHUP."`

	config.Config `embed:""`
}

const about = `Forwards frames between a binary and its phones, which cannot reach each other.

Every option is a flag, an environment variable and a key in the file that --config names. A flag overrides a variable, and a variable overrides the file. An empty variable counts as not set. Secrets are environment variables only.`

func newCommand(environ []string) *command {
	return &command{env: newEnvironment(environ)}
}

// check returns all problems of the options.
func (o *options) check() []config.Problem { return o.Config.Check() }

// read reads the command line and the environment. It returns the name of the command to
// run, or "" if the help was asked for, and one line for each problem.
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
		name, c.selected = ctx.Selected().Name, ctx.Selected().Target.Addr().Interface()
	}
	if name == "help" {
		if p := c.Help.problem(k.Model); p != "" {
			lines = append(lines, p)
		}
	}
	if !slices.Contains([]string{"help", "version", "completion", "man"}, name) {
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
		kong.Help(helpPrinter),
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
		if isSecret(f) {
			all = append(all, f)
		}
	}
	return all
}

// reads makes kong parse values of T with parse. A value that cannot be parsed is recorded
// and does not end the parsing, so that all problems are reported together.
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
	if s, ok := c.selected.(interface{ check() []config.Problem }); ok {
		rules = s.check()
	}
	for _, p := range rules {
		if !unread[p.Option] {
			all = append(all, p)
			unread[p.Option] = true
		}
	}
	if cmd := commandOf(c.model, name); cmd != nil {
		for _, p := range valueProblems(cmd) {
			if !unread[p.Option] {
				all = append(all, p)
			}
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

// helpOf returns the help of one flag: its meaning, unit, default and environment variable.
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

// names returns the environment variables of all flags.
func names(app *kong.Application) map[string]bool {
	all := make(map[string]bool)
	for _, cmd := range app.Children {
		for _, f := range cmd.Flags {
			all[envName(f.Value)] = true
		}
	}
	return all
}
