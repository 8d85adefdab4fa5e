package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// completed returns what bash offers for a command line that ends at the cursor.
func completed(t *testing.T, script string, words ...string) []string {
	t.Helper()
	var quoted []string
	for _, w := range words {
		quoted = append(quoted, shellQuote(w))
	}
	program := "source " + shellQuote(script) + "\ncompopt() { :; }\nCOMP_WORDS=(pyrycode-relay " + strings.Join(quoted, " ") +
		")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_pyrycode_relay\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
	cmd := exec.Command("bash", "--norc", "-c", program)
	cmd.Dir = filepath.Dir(script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", words, err, out)
	}
	return strings.Fields(string(out))
}

func TestBashCompletesValues(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("bash is not installed")
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte(call(t.Context(), nil, "completion", "bash").stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"relay.yml", "dir/x"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name  string
		words []string // the last one is to be completed
		want  []string
	}{
		{"a command", []string{"che"}, []string{"check"}},
		{"an option without a command", []string{"--log-f"}, []string{"--log-format"}},
		{"an option of serve", []string{"serve", "--max-p"}, []string{"--max-pending", "--max-pending-per-address", "--max-phones"}},
		{"an option of another command", []string{"probe", "--ro"}, []string{"--role"}},
		{"a value", []string{"serve", "--log-level", ""}, []string{"debug", "info", "warn", "error"}},
		{"a value without a command", []string{"--log-level", "w"}, []string{"warn"}},
		{"a value behind =", []string{"serve", "--log-level", "=", "d"}, []string{"debug"}},
		{"an empty value behind =", []string{"serve", "--log-format", "="}, []string{"text", "json"}},
		{"true or false", []string{"serve", "--insecure", "=", ""}, []string{"true", "false"}},
		{"no value of a flag that needs none", []string{"check", "--quiet", "--js"}, []string{"--json"}},
		{"a value of another command", []string{"probe", "--role", "p"}, []string{"phone"}},
		{"no word for a time", []string{"serve", "--grace", ""}, nil},
		{"a file", []string{"serve", "--config", "rel"}, []string{"relay.yml"}},
		{"a directory", []string{"serve", "--acme-dir", ""}, []string{"dir"}},
		{"a shell", []string{"completion", "f"}, []string{"fish"}},
		{"a word of access", []string{"access", "to"}, []string{"token"}},
		{"a topic", []string{"help", "timer"}, []string{"timers"}},
	} {
		got := completed(t, script, tt.words...)
		slices.Sort(got)
		slices.Sort(tt.want)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q is completed with %q; want %q", tt.name, tt.words, got, tt.want)
		}
	}
}
