package sim

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
	"time"
)

// Hand-overs that the detector can see leave it nothing to find. This
// fails if the hiding is removed.
func TestHiddenHandOversShowRacesAndPlainOnesDoNot(t *testing.T) {
	if !RaceBuild {
		t.Skip("needs the race detector")
	}
	got := strings.Fields(inChild(t, "ab"))
	if !slices.Equal(got, []string{"100", "0"}) {
		t.Errorf("seen in %v of 100 seeds, hidden and plain; want 100 and 0", got)
	}
}

func TestTheDetectorRemembersLongEnough(t *testing.T) {
	if !RaceBuild {
		t.Skip("needs the race detector")
	}
	out := strings.TrimSpace(inChild(t, "reach"))
	if len(out) == 0 {
		t.Fatal("no measurement")
	}
	for _, l := range strings.Split(out, "\n") {
		if !strings.HasPrefix(l, "true ") {
			t.Error(l)
		}
	}
}

func TestCanaryIsCaught(t *testing.T) {
	if got := strings.TrimSpace(inChild(t, "canary")); got != "<nil>" {
		t.Error(got)
	}
}

func TestTornUpdateShrinksToItsCore(t *testing.T) {
	w, err := FindWorld("planted-update")
	if err != nil {
		t.Fatal(err)
	}
	s := Sweep{Runner: Runner{World: w}, From: 1, To: 50}
	_, res, err := s.Run()
	if err != nil || res == nil {
		t.Fatalf("nothing found: %v", err)
	}
	rep := s.Explain(res, 5*time.Second)
	if rep.Final.Signature() != "update" || rep.Run.Ops() != 2 || rep.Run.Switches() > 2 {
		t.Errorf("shrunk to %d operations and %d switches, signature %q; want 2, at most 2, update\n%s",
			rep.Run.Ops(), rep.Run.Switches(), rep.Final.Signature(), rep.Run)
	}
	if rep.Matter < 0 || rep.Run.Lines[rep.Matter].At == "" {
		t.Errorf("no switch is said to matter:\n%s", rep.Text())
	}
	back, err := ParseRun(rep.Text())
	if err != nil {
		t.Fatal(err)
	}
	if again := s.Replay(back); again.Signature() != "update" {
		t.Errorf("the artefact replays as %q; want update\n%s", again.Signature(), rep.Text())
	}
	if page := HTML(rep.Final); !strings.Contains(page, `class="bad"`) || !strings.Contains(page, "</html>") || strings.Contains(page, "src=") {
		t.Errorf("the page shows no failing step, or needs more than itself")
	}
}

func TestMutantsApplyAndHaveTheirRegressionRuns(t *testing.T) {
	ms, err := Mutants()
	if err != nil {
		t.Fatal(err)
	}
	if len(ms) < 24 {
		t.Errorf("%d mutants; want at least 24", len(ms))
	}
	regressions, err := RegressionRuns()
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
		for _, p := range strings.Split(m.Pair, ", ") {
			if p != "" && !names[p] {
				t.Errorf("mutant %s: no mutant %q to pair with", m.Name, p)
			}
		}
		w, err := FindWorld(m.World)
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
	b, err := os.ReadFile(filepath.Join("..", path))
	return string(b), err
}

// One mutant, from the patch to the replayed artefact: a stale expiry that
// gets past the guard is caught by name, shrunk, and replays from its file.
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
	r, err := ParseRun(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.Lines); n > 12 {
		t.Errorf("shrunk to %d lines; want at most 12\n%s", n, r)
	}
	out, err = exec.Command(bin, "replay", found[0]).CombinedOutput()
	if code := exitCode(err); code != 1 || !strings.Contains(string(out), "stale timer") {
		t.Errorf("replay: exit %d; want 1 and the same failure\n%s", code, out)
	}
	x := Runner{World: registryWorld{}}
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
	root, err := filepath.Abs("..")
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
