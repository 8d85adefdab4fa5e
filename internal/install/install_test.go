package install

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a directory in place of a machine, and the commands that were run for it.
type machine struct {
	Host
	commands []string
	running  bool
}

// newMachine returns a machine on which systemd runs, with the user.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{Host: Host{Root: t.TempDir()}}
	m.Run = func(_ context.Context, name string, args ...string) (string, error) {
		line := name + " " + strings.Join(args, " ")
		switch {
		case strings.Contains(line, "is-active"):
			if m.running {
				return "", nil
			}
			return "", errors.New("inactive")
		case strings.Contains(line, "is-enabled"):
			if slices.Contains(m.commands, "systemctl enable "+Service) {
				return "", nil
			}
			return "", errors.New("disabled")
		case strings.Contains(line, "MainPID"):
			return "0\n", nil
		case strings.HasPrefix(line, "systemctl start"):
			m.running = true
		case strings.HasPrefix(line, "systemctl stop"):
			m.running = false
		}
		m.commands = append(m.commands, line)
		return "", nil
	}
	return m
}

// program writes a file to install as the program.
func program(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// apply installs c, without the steps that need a user of the machine, and returns the
// commands of systemctl and the steps that were done.
func (m *machine) apply(t *testing.T, c Config) (commands, steps []string) {
	t.Helper()
	m.commands = nil
	p, err := Install(t.Context(), m.Host, c)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range p.Steps {
		if strings.Contains(s.What, StateDir) || strings.Contains(s.What, "create the user") {
			p.Steps[i].Done = true
		} else if !s.Done {
			steps = append(steps, strings.ReplaceAll(s.What, m.Root, ""))
		}
	}
	if err := p.Apply(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	return m.commands, steps
}

func (m *machine) file(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(m.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A second installation does nothing. A change is applied with the least disturbance: a
// new program restarts the service, and the sockets stay open.
func TestInstallDoesOnlyWhatIsLeft(t *testing.T) {
	m := newMachine(t)
	c := Config{Program: program(t, "one"), Text: "listen: :443\n", Listen: ":443", HTTPListen: ":80"}
	commands, _ := m.apply(t, c)
	if want := []string{"systemctl daemon-reload", "systemctl enable " + Service, "systemctl start " + Service}; !slices.Equal(commands, want) {
		t.Errorf("a first installation runs %q; want %q", commands, want)
	}
	enabled := m.commands
	again := func(what string, c Config, want ...string) {
		t.Helper()
		m.Host.Run = m.remember(enabled)
		if got, steps := m.apply(t, c); !slices.Equal(got, want) {
			t.Errorf("%s runs %q; want %q; steps %q", what, got, want, steps)
		}
	}
	again("a second installation", c)
	c.Program = program(t, "two")
	again("a new program", c, "systemctl reload "+Service, "systemctl restart "+Service)
	if got := m.file(t, Program); got != "two" {
		t.Errorf("the program is %q", got)
	}
	c.Listen, c.HTTPListen = "127.0.0.1:8080", ""
	again("another address without a certificate", c, "systemctl disable --now "+httpSocket, "systemctl daemon-reload", "systemctl stop "+publicSocket, "systemctl start "+Service)
	if m.exists(unitDir + httpSocket) {
		t.Error("the socket for challenges is still there")
	}
	if got := m.file(t, ConfigFile); got != "listen: :443\n" {
		t.Errorf("a configuration that existed was changed: %q", got)
	}
}

// remember returns m.Run for a service that an earlier installation has enabled.
func (m *machine) remember(earlier []string) func(context.Context, string, ...string) (string, error) {
	run := m.Host.Run
	return func(ctx context.Context, name string, args ...string) (string, error) {
		if slices.Contains(args, "is-enabled") && slices.Contains(earlier, "systemctl enable "+Service) {
			return "", nil
		}
		return run(ctx, name, args...)
	}
}

func TestTheSocketsHaveTheAddressesOfTheConfiguration(t *testing.T) {
	for _, tt := range []struct{ address, want string }{
		{":443", "443"}, {":8443", "8443"}, {"127.0.0.1:8080", "127.0.0.1:8080"}, {"[::1]:8080", "[::1]:8080"}, {"0.0.0.0:80", "0.0.0.0:80"},
		{"relay.test:443", ""}, {"127.0.0.1:0", ""}, {"127.0.0.1", ""},
	} {
		text, err := socketUnit(publicSocket, "443", tt.address)
		if tt.want == "" {
			if err == nil || !strings.Contains(err.Error(), "systemd cannot hold the address") {
				t.Errorf("%s: %v; want an error", tt.address, err)
			}
			continue
		}
		if err != nil || !strings.Contains(string(text), "\nListenStream="+tt.want+"\n") || strings.Count(string(text), "\nListenStream=") != 1 {
			t.Errorf("%s: %v in\n%s", tt.address, err, text)
		}
	}
}

// A failed step ends the installation with its name. The steps before it are done, and the
// next attempt continues.
func TestAFailedStepIsNamed(t *testing.T) {
	m := newMachine(t)
	run := m.Run
	m.Run = func(ctx context.Context, name string, args ...string) (string, error) {
		if slices.Contains(args, "start") {
			return "", errors.New("exit status 1: Job failed")
		}
		return run(ctx, name, args...)
	}
	p, err := Install(t.Context(), m.Host, Config{Program: program(t, "one"), Text: "x", Listen: ":443"})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range p.Steps {
		p.Steps[i].Done = p.Steps[i].Done || strings.Contains(s.What, StateDir) || strings.Contains(s.What, "create the user")
	}
	if err := p.Apply(t.Context(), io.Discard); err == nil || !strings.HasPrefix(err.Error(), "systemctl start "+Service+": exit status 1: Job failed") {
		t.Errorf("got %v", err)
	}
	if !m.exists(unitDir + Service) {
		t.Error("the steps before the failure are not done")
	}
}

// Below a directory the real commands of systemd create the user and enable the service.
// A removal leaves what the operator may need, and purge leaves nothing.
func TestInstallAndUninstallBelowADirectory(t *testing.T) {
	for _, name := range []string{"systemctl", "systemd-sysusers"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
	h := Host{Root: t.TempDir(), Offline: true}
	c := Config{Program: program(t, "one"), Text: "listen: :443\n", Listen: ":443", HTTPListen: ":80"}
	install := func() (left int) {
		p, err := Install(t.Context(), h, c)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Steps {
			if !s.Done {
				left++
			}
		}
		if err := p.Apply(t.Context(), io.Discard); err != nil {
			t.Fatal(err)
		}
		return left
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can create the user")
	}
	if missing := h.Missing(t.Context()); len(missing) > 0 {
		t.Fatalf("missing: %q", missing)
	}
	if n := install(); n < 8 {
		t.Errorf("a first installation has %d steps", n)
	}
	if n := install(); n != 0 {
		t.Errorf("a second installation has %d steps left", n)
	}
	for _, name := range []string{Program, ConfigFile, StateDir, unitDir + Service, unitDir + publicSocket, unitDir + httpSocket, unitDir + "multi-user.target.wants/" + Service} {
		if !h.exists(name) {
			t.Errorf("%s is missing", name)
		}
	}
	uid, _, err := h.ids()
	if err != nil || uid == 0 || uid >= 1000 {
		t.Errorf("the user has the number %d, %v; want one of a system user", uid, err)
	}
	if info, err := os.Stat(h.path(StateDir)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the state directory: %v, %v", info, err)
	}
	verifyUnits(t, h)
	for _, purge := range []bool{false, true} {
		p := Uninstall(t.Context(), h, purge)
		if err := p.Apply(t.Context(), io.Discard); err != nil {
			t.Fatal(err)
		}
		if h.exists(unitDir+Service) || h.exists(unitDir+"multi-user.target.wants/"+Service) || h.exists(Program) {
			t.Error("the service is still there")
		}
		if kept := h.exists(ConfigFile) && h.exists(StateDir) && h.hasUser(); kept == purge {
			t.Errorf("purge %v: configuration, state and user are kept: %v", purge, kept)
		}
		if !purge && len(p.Kept) != 3 {
			t.Errorf("told as kept: %q", p.Kept)
		}
	}
	p := Uninstall(t.Context(), h, true)
	for _, s := range p.Steps {
		if !s.Done {
			t.Errorf("a second removal has the step %s", s.What)
		}
	}
}

// verifyUnits has systemd read the units.
func verifyUnits(t *testing.T, h Host) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("systemd-analyze is not installed, so the units were not checked")
		return
	}
	for _, name := range []string{publicSocket, httpSocket} {
		out, err := exec.Command("systemd-analyze", "verify", h.path(unitDir+name)).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "pyrycode-relay") && !strings.Contains(line, "is not executable") {
				t.Errorf("systemd-analyze verify %s: %v\n%s", name, err, line)
			}
		}
	}
}

func TestAnOldSystemdIsFound(t *testing.T) {
	for _, tt := range []struct {
		out  string
		want int
		ok   bool
	}{{"systemd 252 (252.39-1~deb12u1)\n+PAM", 252, true}, {"systemd 257.4-1\n", 257, true}, {"busybox\n", 0, false}, {"", 0, false}} {
		if got, ok := versionOf(tt.out); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %d, %v", tt.out, got, ok)
		}
	}
	m := newMachine(t)
	m.Run = func(context.Context, string, ...string) (string, error) { return "systemd 241 (241)", nil }
	if _, err := exec.LookPath("systemctl"); err == nil && !strings.Contains(strings.Join(m.Missing(t.Context()), "\n"), "systemd is version 241, and the unit needs 247 or newer") {
		t.Errorf("missing: %q", m.Missing(t.Context()))
	}
}

// An image may have links to directories. Those that lead out of it are refused.
func TestLinksThatLeadOutOfTheRootAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		link, to string
		refused  bool
	}{
		"none":           {"", "", false},
		"out of it":      {"usr/local", t.TempDir(), true},
		"to nothing":     {"usr/local", "/no/such/directory", true},
		"within it":      {"usr/local", "../opt", false},
		"out by dot dot": {"var/lib", "../../..", true},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "a", "root")
			for _, dir := range []string{"usr", "var", "opt", "etc"} {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if tt.link != "" {
				if err := os.Symlink(tt.to, filepath.Join(root, tt.link)); err != nil {
					t.Fatal(err)
				}
			}
			err := Host{Root: root}.CheckLinks()
			if (err != nil) != tt.refused {
				t.Errorf("CheckLinks() = %v; want an error: %t", err, tt.refused)
			}
		})
	}
}
