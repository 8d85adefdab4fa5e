package mutants

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/sim"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

func TestMutantsApplyAndHaveTheirRegressionRuns(t *testing.T) {
	ms, err := Mutants()
	if err != nil {
		t.Fatal(err)
	}
	if len(ms) < 24 {
		t.Errorf("%d mutants; want at least 24", len(ms))
	}
	regressions, err := sim.RegressionRuns()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range ms {
		names[m.Name] = true
	}
	for _, m := range ms {
		files, err := m.Overlay(source)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := parser.ParseFile(token.NewFileSet(), m.File, files[m.File], 0); err != nil {
			t.Errorf("mutant %s: %v", m.Name, err)
		}
		if m.RegressionRun != "" && regressions[m.RegressionRun] == nil {
			t.Errorf("mutant %s: no regression run %q", m.Name, m.RegressionRun)
		}
		for p := range strings.SplitSeq(m.Pair, ", ") {
			if p != "" && !names[p] {
				t.Errorf("mutant %s: no mutant %q to pair with", m.Name, p)
			}
		}
		w, err := sim.Find(m.World)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, c := range m.Catch {
			if c != "none" && !slices.Contains(w.Invariants(), c) {
				t.Errorf("mutant %s: no invariant %q", m.Name, c)
			}
		}
	}
}

func source(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join("..", "..", path))
	return string(b), err
}

// One mutant from the patch to the replayed artefact: the sweep finds a stale expiry under the
// name of its invariant, shrinks it, and replays it from its file.
func TestStaleExpiryIsCaughtShrunkAndReplayed(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	ms, err := Mutants()
	if err != nil {
		t.Fatal(err)
	}
	m := ms[slices.IndexFunc(ms, func(m *Mutant) bool { return m.Name == "stale-token" })]
	bin, dir := buildMutant(t, m), t.TempDir()
	out, err := exec.Command(bin, "sweep", "-world", "registry", "-seeds", "1-5000", "-jobs", "1", "-out", dir).CombinedOutput()
	if code := exitCode(err); code != 1 {
		t.Fatalf("exit %d; want 1\n%s", code, out)
	}
	if !strings.Contains(string(out), "broken: stale timer") {
		t.Errorf("the invariant is not named:\n%s", out)
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*.run"))
	if len(found) != 1 {
		t.Fatalf("artefacts %v; want one", found)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	r, err := sim.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.Lines); n > 13 {
		t.Errorf("shrunk to %d lines; want at most 13\n%s", n, r)
	}
	out, err = exec.Command(bin, "replay", found[0]).CombinedOutput()
	if code := exitCode(err); code != 1 || !strings.Contains(string(out), "stale timer") {
		t.Errorf("replay: exit %d; want 1 and the same failure\n%s", code, out)
	}
	x := engine.Runner{World: r.World}
	if res := x.Replay(r); res.Failure != nil {
		t.Errorf("on the right code the run breaks, too: %v", res.Failure)
	}
}

func exitCode(err error) int {
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return 0
}

func buildMutant(t *testing.T, m *Mutant) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	files, err := m.Overlay(source)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	for name, text := range files {
		at := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(root, name)] = at
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	list, bin := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "relaysim")
	if err := os.WriteFile(list, b, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-overlay", list, "-o", bin, "./cmd/relaysim")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}
