package install

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/replacefile"
)

// The files and the user of an installation.
const (
	User       = "pyrycode-relay"
	Service    = "pyrycode-relay.service"
	Program    = "/usr/local/bin/pyrycode-relay"
	ConfigFile = "/etc/pyrycode-relay.yml"
	StateDir   = "/var/lib/pyrycode-relay"

	unitDir      = "/etc/systemd/system/"
	usersFile    = "/etc/sysusers.d/pyrycode-relay.conf"
	publicSocket = "pyrycode-relay.socket"
	httpSocket   = "pyrycode-relay-http.socket"
)

//go:embed systemd
var files embed.FS

// Config describes an installation.
type Config struct {
	// Program is the file to install as the program.
	Program string

	// Text is the content of ConfigFile if that file does not exist.
	Text string

	// Listen is the address of the public socket, as an IP address with a port or as
	// a port with a colon. HTTPListen is that of the socket for ACME challenges; empty
	// means that there is none.
	Listen, HTTPListen string
}

// Step is one step of a plan.
type Step struct {
	What string // such as "create /etc/pyrycode-relay.yml"
	Done bool   // nothing is left to do
	do   func(context.Context) error
}

// Plan is the list of steps of an installation or a removal.
type Plan struct {
	Steps []Step
	Kept  []string // what a removal leaves in place
	host  Host
}

// Apply performs the steps that are left, and writes a line for each step to out. It ends
// at the first error, which names the step. The steps before it remain done, and a new
// plan continues where it ended.
func (p *Plan) Apply(ctx context.Context, out io.Writer) error {
	for _, s := range p.Steps {
		if s.Done {
			fmt.Fprintf(out, "  done before  %s\n", s.What)
			continue
		}
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.What, err)
		}
		fmt.Fprintf(out, "  done         %s\n", s.What)
	}
	return nil
}

// Print writes the steps without performing them.
func (p *Plan) Print(out io.Writer) {
	for _, s := range p.Steps {
		state := "to do"
		if s.Done {
			state = "done before"
		}
		fmt.Fprintf(out, "  %-11s  %s\n", state, s.What)
	}
}

// Install returns the steps that install the relay at h. It changes nothing. Applied a
// second time, all steps are done but the start.
func Install(ctx context.Context, h Host, c Config) (*Plan, error) {
	if err := h.CheckLinks(); err != nil {
		return nil, err
	}
	p := &Plan{host: h}
	program, err := os.ReadFile(c.Program)
	if err != nil {
		return nil, err
	}
	programChanged := p.write(Program, program, 0o755, "this program")
	p.write(usersFile, unit("pyrycode-relay.conf"), 0o644, "the user of the service")
	p.Steps = append(p.Steps, Step{"create the user " + User, h.hasUser(), func(ctx context.Context) error {
		_, err := h.command(ctx, "systemd-sysusers", filepath.Base(usersFile))
		return err
	}})
	if !h.exists(ConfigFile) {
		p.write(ConfigFile, []byte(c.Text), 0o644, "the configuration")
	} else {
		p.Steps = append(p.Steps, Step{What: "keep " + h.path(ConfigFile) + ", the configuration", Done: true})
	}
	p.stateDir()
	socket, err := socketUnit(publicSocket, "443", c.Listen)
	if err != nil {
		return nil, err
	}
	socketChanged := p.write(unitDir+publicSocket, socket, 0o644, "the public socket")
	if c.HTTPListen != "" {
		if socket, err = socketUnit(httpSocket, "80", c.HTTPListen); err != nil {
			return nil, err
		}
		socketChanged = p.write(unitDir+httpSocket, socket, 0o644, "the socket for ACME challenges") || socketChanged
	} else if h.exists(unitDir + httpSocket) {
		p.online("systemctl disable --now "+httpSocket, false)
		p.remove(unitDir + httpSocket)
	}
	serviceChanged := p.write(unitDir+Service, unit(Service), 0o644, "the service")
	p.start(ctx, socketChanged, serviceChanged, programChanged)
	return p, nil
}

// start adds the commands that enable and start the service, or restart what has changed.
func (p *Plan) start(ctx context.Context, socketChanged, serviceChanged, programChanged bool) {
	p.online("systemctl daemon-reload", !socketChanged && !serviceChanged)
	p.run("systemctl enable "+Service, p.host.enabled(ctx))
	active := !p.host.Offline && p.host.active(ctx)
	if active && socketChanged {
		p.online("systemctl stop "+publicSocket, false) // stops the service too
		active = false
	}
	if active && (serviceChanged || programChanged || p.host.runsOld(ctx)) {
		p.online("systemctl reload "+Service, false) // has the new program check the configuration
		p.online("systemctl restart "+Service, false)
		return
	}
	p.online("systemctl start "+Service, active)
}

// Uninstall returns the steps that remove the relay from h. It changes nothing. With
// purge the steps also remove the configuration, the state and the user.
func Uninstall(ctx context.Context, h Host, purge bool) *Plan {
	p := &Plan{host: h}
	for _, name := range []string{httpSocket, publicSocket, Service} { // a socket that is open starts the service
		if h.exists(unitDir + name) {
			p.online("systemctl stop "+name, false)
		}
	}
	p.run("systemctl disable "+Service, !h.exists(unitDir+Service) || !h.enabled(ctx))
	gone := true
	for _, name := range []string{unitDir + Service, unitDir + publicSocket, unitDir + httpSocket} {
		gone = p.remove(name) && gone
	}
	p.online("systemctl daemon-reload", gone)
	p.remove(usersFile)
	p.remove(Program)
	if !purge {
		for _, name := range []string{ConfigFile, StateDir} {
			if h.exists(name) {
				p.Kept = append(p.Kept, h.path(name))
			}
		}
		if h.hasUser() {
			p.Kept = append(p.Kept, "the user "+User)
		}
		return p
	}
	p.remove(ConfigFile)
	p.remove(StateDir)
	p.Steps = append(p.Steps, Step{"remove the user " + User, !h.hasUser(), h.removeUser})
	return p
}

// unit returns the text of a file in systemd/.
func unit(name string) []byte {
	text, err := files.ReadFile("systemd/" + name)
	if err != nil {
		panic(err) // of the program, not of the input
	}
	return text
}

// socketUnit returns the unit of a socket, which has the port standard, for address.
func socketUnit(name, standard, address string) ([]byte, error) {
	host, port, err := net.SplitHostPort(address)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
		return nil, fmt.Errorf("systemd cannot hold the address %q: it must have a port from 1 to 65535", address)
	}
	stream := port
	if host != "" {
		a, err := netip.ParseAddr(host)
		if err != nil {
			return nil, fmt.Errorf("systemd cannot hold the address %q: it must be an IP address with a port, such as 127.0.0.1:8080, or a port of all addresses, such as :443", address)
		}
		stream = netip.AddrPortFrom(a, 0).String()
		stream = strings.TrimSuffix(stream, "0") + port
	}
	return bytes.Replace(unit(name), []byte("\nListenStream="+standard+"\n"), []byte("\nListenStream="+stream+"\n"), 1), nil
}

// write adds the step that writes a file, and reports whether the step is needed.
func (p *Plan) write(name string, text []byte, mode fs.FileMode, what string) (needed bool) {
	at := p.host.path(name)
	old, err := os.ReadFile(at)
	verb := "create"
	if err == nil {
		verb = "replace"
	}
	done := err == nil && bytes.Equal(old, text)
	if done {
		verb = "write"
	}
	p.Steps = append(p.Steps, Step{verb + " " + at + ", " + what, done, func(context.Context) error {
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		return replacefile.Write(at, text, func(f *os.File) error { return f.Chmod(mode) })
	}})
	return !done
}

// remove adds the step that removes a file or directory, and reports whether it is gone
// already.
func (p *Plan) remove(name string) (gone bool) {
	at := p.host.path(name)
	gone = !p.host.exists(name)
	p.Steps = append(p.Steps, Step{"remove " + at, gone, func(context.Context) error { return os.RemoveAll(at) }})
	return gone
}

// run adds a command.
func (p *Plan) run(command string, done bool) {
	p.Steps = append(p.Steps, Step{command, done, func(ctx context.Context) error {
		args := strings.Fields(command)
		_, err := p.host.command(ctx, args[0], args[1:]...)
		return err
	}})
}

// online adds a command that needs a running systemd.
func (p *Plan) online(command string, done bool) {
	if !p.host.Offline {
		p.run(command, done)
	}
}

// stateDir adds the step that creates the directory of the relay's files.
func (p *Plan) stateDir() {
	at := p.host.path(StateDir)
	p.Steps = append(p.Steps, Step{"create " + at + ", for certificates and other files of the relay", p.host.exists(StateDir), func(context.Context) error {
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(at, 0o700); err != nil {
			return err
		}
		if os.Geteuid() != 0 {
			return nil // systemd sets the owner when it starts the service
		}
		uid, gid, err := p.host.ids()
		if err != nil {
			return err
		}
		return os.Chown(at, uid, gid)
	}})
}

// ids returns the numbers of the user.
func (h Host) ids() (uid, gid int, err error) {
	text, err := os.ReadFile(h.path("/etc/passwd"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(line, ":")
		if len(f) < 4 || f[0] != User {
			continue
		}
		uid, err := strconv.Atoi(f[2])
		if err != nil {
			return 0, 0, err
		}
		gid, err := strconv.Atoi(f[3])
		return uid, gid, err
	}
	return 0, 0, user.UnknownUserError(User)
}

// hasUser reports whether the user exists.
func (h Host) hasUser() bool {
	if !h.Offline {
		_, err := user.Lookup(User) // also a user that is in no file, such as in LDAP
		return err == nil
	}
	_, _, err := h.ids()
	return err == nil
}
