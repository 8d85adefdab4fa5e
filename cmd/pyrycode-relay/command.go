package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// command is the command line, the environment, and the options that they set.
type command struct {
	Serve options

	root *cobra.Command
	env  *environment
}

const about = `Forwards frames between a binary and its phones, which cannot reach each other.

Every option is a flag, an environment variable and a key in the file that --config names. A flag overrides a variable, and a variable overrides the file. An empty variable counts as not set. Secrets are environment variables only.`

// newCommand returns the command before it has read anything. It writes help to stdout.
func newCommand(environ []string, stdout io.Writer) *command {
	c := &command{env: newEnvironment(environ)}
	c.Serve.Config = config.Default()
	help := cli.Command("help [TOPIC…]", "Print this help, or with --all every option, or the help on a command, a group of options, or one option.", new(helpCommand))
	help.Long = "A topic is a command, a group of options such as limits, or an option such as grace."
	help.ValidArgsFunction = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return topics(c.root), cobra.ShellCompDirectiveNoFileComp
	}
	const what = "WHAT is a server-id or its fingerprint from the log, or an IP address or a network; for kick also a connection of ps, for unban also sha256:… as bans --json shows it. A single -: the first line of standard input, so that a server-id is in no list of processes."
	var commands []*cobra.Command
	var groups []*cobra.Group
	for _, g := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"Run", []*cobra.Command{
			cli.Command("serve", "Run the relay. This is what happens without a command.", &c.Serve),
			cli.Command("check", "Print the configuration that serve would run with, where each value comes from, and what is wrong or unusual. With --example: print a configuration to begin with.", &check{options: options{Config: config.Default()}}),
			cli.Command("install", "Install the relay as a service of systemd and start it. With --dry-run: print the steps.", new(installCommand)),
			cli.Command("uninstall", "Stop the service, and remove what install has created.", new(uninstallCommand)),
		}},
		{"Observe", []*cobra.Command{
			cli.Command("probe", "Open a binary and a phone on a relay, send frames both ways, and print how long they took.", new(probe)),
			cli.Command("healthcheck", "Ask a running relay whether it is ready, and return 0 or 1 with the reason. For images without curl.", new(healthcheck)),
			cli.Command("diag", "Write a running relay's state into a zip file, without secrets.", new(diag)),
			cli.Command("fingerprint", "Print the form of a server-id in the log, or with --log the last lines about it in a running relay's log.", new(fingerprintCommand)),
			cli.Command("ps", "List the connections of a running relay, with their traffic.", new(ps)),
			cli.Command("top", "Show the connections with the most traffic, again and again.", new(top)),
		}},
		{"Control", []*cobra.Command{
			accessCommands(),
			withLong(cli.Command("kick WHAT", "Close the connections of a server-id or network. They may return.", new(kick)), what),
			withLong(cli.Command("ban WHAT", "Close them, and refuse the server-id or network for a time.", new(ban)), what),
			withLong(cli.Command("unban WHAT", "Lift a ban.", new(unban)), what),
			cli.Command("bans", "List the bans in force.", new(bans)),
			cli.Group("cluster", "List and remove the members of the directory of a cluster, through any of its relays.",
				cli.Command("members", "List the members.", new(clusterMembers)),
				cli.Command("remove NAME", "Remove the member with that name or address. Its relay must have ended.", new(clusterRemove))),
		}},
		{"This program", []*cobra.Command{
			help,
			cli.Command("version", "Print the version of this program.", new(versionCommand)),
			cli.Command("man", "Print the manual page: pyrycode-relay man | man -l -.", new(man)),
		}},
	} {
		groups = append(groups, &cobra.Group{ID: g.title, Title: g.title})
		for _, cmd := range g.commands {
			cmd.GroupID = g.title
		}
		commands = append(commands, g.commands...)
	}
	c.root = cli.Root("pyrycode-relay", about, stdout, commands...)
	c.root.AddGroup(groups...)
	for _, cmd := range c.root.Commands() {
		cmd.GroupID = cmp.Or(cmd.GroupID, "This program") // completion is cobra's
	}
	c.root.SetHelpCommand(help)
	c.root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { commandHelp(cmd, false, stdout) })
	c.root.Annotations = map[string]string{cli.Lists: "pyrycode-relay help lists the commands"}
	commands[0].Annotations = map[string]string{cli.Lists: "pyrycode-relay help --all lists the options"}
	for _, cmd := range cli.Leaves(c.root) {
		for _, o := range cli.OptionsOf(cmd) {
			o.Env = envName(o)
		}
	}
	return c
}

// withLong returns c with an explanation below its help.
func withLong(c *cobra.Command, text string) *cobra.Command {
	c.Long = text
	return c
}

// versionCommand is the version command.
type versionCommand struct {
	JSON bool `of:"version" name:"json" unit:"true or false" help:"Print one JSON object."`
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
	ConfigFile string `name:"config" placeholder:"FILE" unit:"file" group:"Configuration" help:"Where options come from that are neither flag nor variable: lines of option: value. It is read again on SIGHUP."`

	config.Config
}

// check returns all problems of the options.
func (o *options) check() []config.Problem { return o.Config.Check() }

// read reads the command line and the environment. It returns the selected command, and
// one line for each problem. The selection has no command if the help was asked for, and
// no options if the command line could not be read.
func (c *command) read(args []string) (s cli.Selection, lines []string) {
	s, err := cli.Parse(c.root, withCommand(args))
	if s.Command == nil {
		return s, nil
	}
	c.env.resolve(s.Command.Flags())
	if f := c.env.file; f != nil {
		lines = append(lines, f.problems...)
	}
	if err != nil {
		lines = append(lines, err.Error())
	}
	switch s.Options.(type) {
	case *helpCommand, *versionCommand, *man:
		return s, lines
	}
	for _, p := range c.all(s) {
		lines = append(lines, p.Error())
	}
	lines = append(lines, c.env.unknown(names(c.root))...)
	if more := len(lines) - maxProblems; more > 0 {
		lines = append(lines[:maxProblems:maxProblems], fmt.Sprintf("and %d problems more", more))
	}
	return s, lines
}

// maxProblems is how many problems are told: a file of a megabyte may have one in
// each line, and each is a record of the log.
const maxProblems = 50

// withCommand returns args with a command at their head: serve if they begin with an option,
// and version for --version. Behind help, options lose their dashes: there they are topics.
func withCommand(args []string) []string {
	args = slices.Clone(args)
	first := 0
	if len(args) > 1 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		first = 1 // a shell asks how these arguments may go on
	}
	switch {
	case len(args) == 0:
		return []string{"serve"}
	case args[first] == "--version":
		args[first] = "version"
	case args[first] == "--help" || args[first] == "-h":
		if len(args) > 1 && strings.HasPrefix(args[1], "-") {
			return args[:1]
		}
	case strings.HasPrefix(args[first], "-"):
		return slices.Insert(args, first, "serve")
	case args[first] == "help":
		for i, a := range args {
			if a != "--all" && a != "--help" {
				args[i] = strings.TrimPrefix(a, "--")
			}
		}
	}
	return args
}

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

// all returns the problems of the values of a command: those that could not be read, then,
// of the others, those that break a rule.
func (c *command) all(s cli.Selection) (all []config.Problem) {
	unread := make(map[string]bool)
	for _, o := range cli.OptionsOf(s.Command) {
		if o.Invalid != nil {
			all = append(all, config.Problem{Option: o.Name, Value: o.Text, Rule: o.Invalid.Rule, Fix: o.Invalid.Fix})
			unread[o.Name] = true
		}
	}
	if s, ok := s.Options.(interface{ check() []config.Problem }); ok {
		for _, p := range s.check() {
			if !unread[p.Option] {
				all = append(all, p)
				unread[p.Option] = true
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

// helpOf is the help of an option: what it is, its unit, its default, its environment
// variable.
func helpOf(o *cli.Option) string {
	return fmt.Sprintf("%s (%s; default %s; $%s)", o.Help, o.Unit, cmp.Or(o.Default, "none"), o.Env)
}

// names returns the environment variables of all options.
func names(root *cobra.Command) map[string]bool {
	all := make(map[string]bool)
	for _, cmd := range cli.Leaves(root) {
		for _, o := range cli.OptionsOf(cmd) {
			all[o.Env] = true
		}
	}
	return all
}

// problems are what is wrong with the options of a command.
type problems []config.Problem

// unless adds a problem if ok is false.
func (p *problems) unless(ok bool, option string, value any, rule, fix string) {
	if !ok {
		*p = append(*p, config.Problem{Option: option, Value: fmt.Sprint(value), Rule: rule, Fix: fix})
	}
}
