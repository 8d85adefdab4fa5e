package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExitCodesAndWhatIsSaid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.run")
	if err := os.WriteFile(file, []byte("world registry\nb1 claim s1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "b.run")
	if err := os.WriteFile(bad, []byte("world registry\nb1 dance\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(t.TempDir(), "c.run")
	if err := os.WriteFile(torn, []byte("world planted-update\na torn\n  at a.1@unlock1 run b\nb torn\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	raced := filepath.Join(t.TempDir(), "d.run")
	if err := os.WriteFile(raced, []byte("# signature: race a | b\nworld planted-race\na bare\nb bare\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	type call struct {
		args string
		code int
		says string
	}
	calls := []call{
		{"", usage, "usage:"},
		{"help", held, "worlds: registry"},
		{"dance", usage, `there is no command "dance"`},
		{"run", usage, "-seed is missing"},
		{"run -seed x", usage, `-seed x: must be a number or 40 hex digits`},
		{"run -seed 1 -world moon", usage, `unknown world "moon"`},
		{"run -seed 1 -strategy luck", usage, `unknown strategy "luck"`},
		{"run -seed 1 more", usage, "it takes 0 arguments besides flags, not 1 (more)"},
		{"run -moon", usage, "flag provided but not defined"},
		{"sweep", usage, "want -seeds or -for"},
		{"sweep -seeds 9-1", usage, `-seeds "9-1": want first-last`},
		{"sweep -seeds 1-2 -commit abc", usage, "want 40 hex digits"},
		{"sweep -seeds 1-2 -worker 3/2", usage, "want i/n"},
		{"replay", usage, "it takes 1 arguments besides flags, not 0"},
		{"replay /does/not/exist", usage, "no such file"},
		{"replay " + bad, usage, "b.run: line 2"},
		{"replay " + file, held, "world=registry seeds=1"},
		{"replay " + torn, broken, "broken: update: counted 1 of 2"},
		{"shrink " + file, usage, "the run holds"},
		{"shrink " + torn, broken, "# what matters: at a.1@unlock1, b goes on"},
		{"run -world registry -seed 42", held, "races=0 violations=0"},
		{"run -world registry -seed 42 -until 10", held, "before step 10, at "},
		{"run -world registry -seed 42 -trace -", held, "locked registry"},
		{"run -world registry -seed 42 -html -", held, "<!doctype html>"},
		{"sweep -seeds 1-20 -worker 0/1", held, `"Seeds":20`},
		{"exhaustive -bound 0 -seeds 50", held, "complete=true"},
	}
	if !engine.RaceBuild { // a race in this process fails the test; the demo has one in another process
		calls = append(calls, call{"replay " + raced, usage, "its failure is a data race, which this build cannot see"})
	}
	for _, tt := range calls {
		t.Run(tt.args, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := run(strings.Fields(tt.args), &out, &errs); code != tt.code {
				t.Errorf("exit %d; want %d\n%s%s", code, tt.code, &out, &errs)
			}
			if said := out.String() + errs.String(); !strings.Contains(said, tt.says) {
				t.Errorf("it does not say %q:\n%s", tt.says, said)
			}
		})
	}
}

func TestTheLastLineIsKeysAndValues(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run([]string{"run", "-world", "registry", "-seed", "42"}, &out, &errs); code != held {
		t.Fatal(errs.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for _, f := range strings.Fields(lines[len(lines)-1]) {
		if key, value, ok := strings.Cut(f, "="); !ok || key == "" || value == "" {
			t.Errorf("%q is no key=value pair", f)
		}
	}
}
