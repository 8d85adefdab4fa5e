package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/install"
)

// service has the options of install and uninstall.
type service struct {
	Root   string `of:"install" name:"root" placeholder:"DIR" unit:"directory" help:"Write below this directory, and start nothing: for packages and tests."`
	DryRun bool   `of:"install" name:"dry-run" unit:"true or false" help:"Print the steps, and what this machine lacks for them. Change nothing."`
}

// host returns the machine, or the directory, of the service.
func (s service) host() (install.Host, error) {
	if s.Root == "" {
		return install.Host{}, nil
	}
	root, err := filepath.Abs(s.Root)
	return install.Host{Root: root, Offline: true}, err
}

// perform applies a plan, or prints it for a dry run. It returns an error if the machine
// lacks something for it.
func (s service) perform(ctx context.Context, h install.Host, p *install.Plan, out io.Writer) error {
	missing := h.Missing(ctx)
	if s.DryRun {
		p.Print(out)
	} else if len(missing) == 0 {
		if err := p.Apply(ctx, out); err != nil {
			return err
		}
	}
	for _, k := range p.Kept {
		fmt.Fprintf(out, "  %-11s  %s\n", "kept", k)
	}
	if len(missing) > 0 {
		return errors.New(strings.Join(missing, "\n  "))
	}
	return nil
}

// installCommand is the command install.
type installCommand struct {
	service

	Domain string `of:"install" name:"domain" placeholder:"NAME" unit:"host name" help:"DNS name of this machine, for which the relay gets a certificate. It then listens on ports 443 and 80. Without this option it listens on 127.0.0.1:8080, for a proxy on this machine that terminates TLS."`
}

// check returns all problems of the options.
func (i *installCommand) check() []config.Problem {
	if i.Domain == "" {
		return nil
	}
	c := config.Default()
	c.Domain, c.Listen, c.ACMEDir = i.Domain, ":443", install.StateDir+"/acme"
	var all []config.Problem
	for _, p := range c.Check() {
		if p.Option == "domain" {
			all = append(all, p)
		}
	}
	return all
}

// run installs the service. A configuration that exists is kept, and decides the sockets.
func (i *installCommand) run(ctx context.Context, call invocation) error {
	h, err := i.host()
	if err != nil {
		return err
	}
	text := i.configuration()
	at := filepath.Join("/", h.Root, install.ConfigFile)
	if old, err := os.ReadFile(at); err == nil {
		text = old
	} else if _, link := os.Lstat(at); link == nil || !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the configuration exists and cannot be read; is it a link to a file that is not there? %w", err)
	}
	c, err := configOf(at, text)
	if err != nil {
		return err
	}
	if i.Domain != "" && c.Domain != i.Domain {
		return fmt.Errorf("--domain %s: %s exists and has another domain (%q): change it there, and install without --domain", i.Domain, at, c.Domain)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	settings := install.Config{Program: program, Text: string(text), Listen: c.Listen}
	if c.Domain != "" {
		settings.HTTPListen = c.HTTPListen
	}
	p, err := install.Install(ctx, h, settings)
	if err != nil {
		return err
	}
	if err := i.perform(ctx, h, p, call.out); err != nil {
		return i.explain(err)
	}
	i.next(c, call.out)
	return nil
}

// explain adds the place of the log to the error of a start.
func (i *installCommand) explain(err error) error {
	if regexp.MustCompile(`^systemctl (start|reload|restart) `).MatchString(err.Error()) {
		return fmt.Errorf("%w\n  journalctl -u pyrycode-relay -n 20 has the reason; correct %s and install again", err, install.ConfigFile)
	}
	return err
}

// configuration returns the configuration of a new installation.
func (i *installCommand) configuration() []byte {
	set := map[string]string{"listen": "127.0.0.1:8080", "state-dir": install.StateDir + "/state"}
	if i.Domain != "" {
		set["listen"], set["domain"], set["acme-dir"] = ":443", i.Domain, install.StateDir+"/acme"
	}
	var b bytes.Buffer
	exampleConfig(&b, set)
	return b.Bytes()
}

// configOf returns the configuration in text, the content of the file name. It does not
// check the values: the service does, as its own user.
func configOf(name string, text []byte) (config.Config, error) {
	f := newConfigFile(name)
	f.parse(text)
	env := newEnvironment(nil)
	env.file = f
	c := config.Default()
	problems := f.problems
	for _, o := range cli.Options(&c) {
		if env.set(o); o.Invalid != nil {
			problems = append(problems, config.Problem{Option: o.Name, Origin: env.origins[o.Name], Value: o.Text, Rule: o.Invalid.Rule, Fix: o.Invalid.Fix}.Error())
		}
	}
	if len(problems) > 0 {
		return config.Config{}, errors.New(strings.Join(problems, "\n  "))
	}
	return c, nil
}

// next writes the next commands.
func (i *installCommand) next(c config.Config, out io.Writer) {
	pages := "http://" + dialable(c.MetricsListen) + "/ (on this machine)"
	if _, unix := strings.CutPrefix(c.MetricsListen, "unix:"); unix {
		pages = "curl --unix-socket " + strings.TrimPrefix(c.MetricsListen, "unix:") + " http://localhost/"
	}
	relay := "ws://" + dialable(c.Listen)
	if c.Domain != "" {
		relay = "wss://" + c.Domain
	}
	switch {
	case i.DryRun:
		fmt.Fprintf(out, "\nNothing was changed. To read the files, write them to a directory: pyrycode-relay install --root DIR\n")
	case i.Root != "":
		fmt.Fprintf(out, "\nThe files are below %s. Nothing was started.\n", i.Root)
	default:
		fmt.Fprintf(out, `
The relay runs, and starts at boot.
  test it         pyrycode-relay probe --relay %s
  status page     %s
  its log         journalctl -u pyrycode-relay
  change limits   edit %s, then systemctl reload pyrycode-relay
  change listen   edit %[3]s, then pyrycode-relay install
`, relay, pages, install.ConfigFile)
	}
}

// uninstallCommand is the command uninstall.
type uninstallCommand struct {
	service

	Purge bool `of:"uninstall" name:"purge" unit:"true or false" help:"Remove the configuration, the certificates and the user too."`
}

func (u *uninstallCommand) run(ctx context.Context, c invocation) error {
	h, err := u.host()
	if err != nil {
		return err
	}
	if err := h.CheckLinks(); err != nil {
		return err
	}
	return u.perform(ctx, h, install.Uninstall(ctx, h, u.Purge), c.out)
}
