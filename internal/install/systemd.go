package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Host is the machine of an installation, or a directory with the files of one.
type Host struct {
	// Root is the directory below which all files are. Empty means /.
	Root string

	// Offline means that systemd does not run there: files are written, and units are
	// enabled but not started.
	Offline bool

	// Run runs a command and returns its output. Nil: [RunCommand].
	Run func(ctx context.Context, name string, args ...string) (string, error)
}

// leastSystemd is the oldest version of systemd that has all directives of the unit.
const leastSystemd = 247

// Missing returns a sentence with its remedy for each property that the machine lacks.
func (h Host) Missing(ctx context.Context) (all []string) {
	if runtime.GOOS != "linux" {
		return []string{"install needs systemd, and this system is " + runtime.GOOS + ": run pyrycode-relay serve under your own supervisor"}
	}
	if _, err := exec.LookPath("systemctl"); err != nil {
		all = append(all, "the command systemctl was not found: install systemd, or run pyrycode-relay serve under your own supervisor")
	} else if out, err := h.command(ctx, "systemctl", "--version"); err == nil {
		if v, ok := versionOf(out); ok && v < leastSystemd {
			all = append(all, fmt.Sprintf("systemd is version %d, and the unit needs %d or newer: update systemd, or run pyrycode-relay serve under your own supervisor", v, leastSystemd))
		}
	}
	if _, err := exec.LookPath("systemd-sysusers"); err != nil && !h.hasUser() {
		all = append(all, "the command systemd-sysusers was not found: create the user first (useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "+User+")")
	}
	if h.Offline {
		return all
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		all = append(all, "systemd does not run on this machine (/run/systemd/system is missing): --root DIR writes the files only, and pyrycode-relay serve runs a relay without systemd")
	}
	if os.Geteuid() != 0 {
		all = append(all, "this user is not root: run it with sudo; --dry-run prints the steps")
	}
	return all
}

// versionOf returns the version in the output of systemctl --version.
func versionOf(out string) (int, bool) {
	f := strings.Fields(out)
	if len(f) < 2 || f[0] != "systemd" {
		return 0, false
	}
	digits, _, _ := strings.Cut(f[1], ".")
	v, err := strconv.Atoi(digits)
	return v, err == nil
}

// path returns the place of an absolute name.
func (h Host) path(name string) string { return filepath.Join("/", h.Root, name) }

// CheckLinks returns an error if a symbolic link below h.Root leads to a place that is not
// below it: an installation into an image must not change the machine that makes it.
func (h Host) CheckLinks() error {
	if h.Root == "" {
		return nil
	}
	root, err := filepath.EvalSymlinks(h.path("/"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("--root: the directory %s does not exist: create it first", h.Root)
	case err != nil:
		return fmt.Errorf("--root: %w", err)
	}
	for _, name := range []string{Program, ConfigFile, StateDir, unitDir, usersFile} {
		dir := filepath.Dir(h.path(name))
		real, err := filepath.EvalSymlinks(dir)
		for errors.Is(err, fs.ErrNotExist) && dir != h.path("/") {
			if _, link := os.Lstat(dir); link == nil {
				return fmt.Errorf("%s is a link to a directory that does not exist", dir)
			}
			dir = filepath.Dir(dir)
			real, err = filepath.EvalSymlinks(dir)
		}
		if err != nil {
			return err
		}
		if in, err := filepath.Rel(root, real); err != nil || !filepath.IsLocal(in) {
			return fmt.Errorf("%s leads to %s, which is not below %s: an installation would change files there", dir, real, h.Root)
		}
	}
	return nil
}

func (h Host) exists(name string) bool {
	_, err := os.Lstat(h.path(name))
	return err == nil
}

// commandTime bounds one command. systemd stops a service within 30 s, and starts one
// within 90 s.
const commandTime = 3 * time.Minute

// command runs a command of systemd for this host.
func (h Host) command(ctx context.Context, name string, args ...string) (string, error) {
	if h.Offline && h.Root != "" {
		args = append([]string{"--root=" + h.path("/")}, args...)
	}
	run := h.Run
	if run == nil {
		run = RunCommand
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	return run(ctx, name, args...)
}

// RunCommand runs a command. Its error has the first lines that the command has written.
func RunCommand(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err == nil {
		return string(out), nil
	}
	text := strings.TrimSpace(string(out[:min(len(out), 1000)]))
	if text == "" {
		return "", err
	}
	return string(out), fmt.Errorf("%w: %s", err, text)
}

func (h Host) removeUser(ctx context.Context) error {
	args := []string{User}
	if h.Offline && h.Root != "" {
		args = []string{"--prefix", h.path("/"), User}
	}
	run := h.Run
	if run == nil {
		run = RunCommand
	}
	_, err := run(ctx, "userdel", args...)
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("the command userdel was not found: remove the user by hand")
	}
	return err
}

// enabled reports whether the service starts at boot.
func (h Host) enabled(ctx context.Context) bool {
	if h.Offline {
		return h.exists(unitDir + "multi-user.target.wants/" + Service)
	}
	_, err := h.command(ctx, "systemctl", "is-enabled", "--quiet", Service)
	return err == nil
}

// runsOld reports whether the service runs a program that has been replaced since, such as
// by an installation that failed before the restart.
func (h Host) runsOld(ctx context.Context) bool {
	pid, err := h.command(ctx, "systemctl", "show", "--property=MainPID", "--value", Service)
	if err != nil {
		return false
	}
	exe, err := os.Readlink("/proc/" + strings.TrimSpace(pid) + "/exe")
	return err == nil && strings.HasSuffix(exe, " (deleted)")
}

// active reports whether the service runs.
func (h Host) active(ctx context.Context) bool {
	_, err := h.command(ctx, "systemctl", "is-active", "--quiet", Service)
	return err == nil
}
