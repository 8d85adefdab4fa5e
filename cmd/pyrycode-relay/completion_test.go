package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Bash asks a separate process, which is the test binary.
func TestBashCompletesCommandsOptionsAndValues(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("bash is not installed")
	}
	dir := t.TempDir()
	for _, name := range []string{"relay.yml", "dir/x"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		line string // its end is to be completed
		want string
	}{
		{"a command", "che", "check"},
		{"a command of a group", "access tok", "token"},
		{"a command of a group of a group", "access token a", "add"},
		{"an option without a command", "--log-f", "--log-format"},
		{"an option of serve", "serve --max-p", "--max-pending --max-pending-per-address --max-phones"},
		{"an option of another command", "probe --ro", "--role"},
		{"no secret", "serve --cluster-se", ""},
		{"a value", "serve --log-level ", "debug info warn error"},
		{"a value without a command", "--log-level w", "warn"},
		{"a value behind =", "serve --log-level=d", "debug"},
		{"true or false", "serve --insecure=", "true false"},
		{"a value of another command", "probe --role p", "phone"},
		{"no word for a time", "serve --grace ", ""},
		{"a file, by bash itself", "serve --config rel", ""},
		{"a directory", "serve --acme-dir ", "dir"},
		{"a shell", "completion f", "fish"},
		{"a topic", "help timer", "timers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("bash", "--norc", "-c", `self=$1 COMP_LINE="pyrycode-relay $2"
pyrycode-relay() { "$self" "$@"; }
source <(pyrycode-relay completion bash)
compopt() { :; }
COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMP_WORDBREAKS='=: '
__start_pyrycode-relay
printf '%s\n' "${COMPREPLY[@]}"`, "bash", self, tt.line)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), asCommand+"=1", "GORACE=atexit_sleep_ms=0")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			got, want := strings.Fields(string(out)), strings.Fields(tt.want)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%q is completed with %q; want %q", tt.line, got, want)
			}
		})
	}
}

// The other shells ask the program in the same way, so that it is enough to read their
// scripts.
func TestEveryShellAcceptsItsScript(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		got := call(t.Context(), nil, "completion", shell)
		if got.code != done || !strings.Contains(got.stdout, "__complete") {
			t.Fatalf("%s: %+v", shell, got)
		}
		program, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("%s is not installed, so its script was not checked", shell)
			continue
		}
		script := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(script, []byte(got.stdout), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(program, "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s reports an error in its script: %v\n%s", shell, err, out)
		}
	}
}
