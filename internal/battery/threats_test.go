package battery

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// threat is one mitigation of docs/security.md, how to take it out, and the
// test that must notice.
type threat struct {
	name, out string
	pkg, test string
	file      string
	old, new  string
}

// root is the module's, seen from this package.
const root = "../.."

func threats(t *testing.T) (all []threat) {
	t.Helper()
	text, err := os.ReadFile("testdata/threats.txt")
	if err != nil {
		t.Fatal(err)
	}
	for block := range strings.SplitSeq(string(text), "\n\n") {
		var th threat
		part := new(string)
		for line := range strings.Lines(block) {
			line = strings.TrimSuffix(line, "\n")
			key, rest, _ := strings.Cut(line, " ")
			switch {
			case key == "#", line == "":
			case key == "threat":
				th.name = rest
			case key == "out":
				th.out = rest
			case key == "test":
				th.pkg, th.test, _ = strings.Cut(rest, " ")
			case key == "in":
				th.file = rest
			case key == "-":
				part, th.old = &th.old, rest
			case key == "+":
				part, th.new = &th.new, rest
			default:
				*part += "\n" + line
			}
		}
		if th.name == "" {
			continue // the heading
		}
		all = append(all, th)
	}
	return all
}

// without is th's file, in the module at root, with the mitigation taken out.
func (th threat) without(t *testing.T, root string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, th.file))
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte(th.old)); n != 1 {
		t.Fatalf("%s (%s): its place is %d times in %s; want once: %s", th.name, th.out, n, th.file, th.old)
	}
	return bytes.Replace(b, []byte(th.old), []byte(th.new), 1)
}

// table is what docs/security.md tells of all patches.
func table(all []threat) string {
	s := "\n| Threat | Taken out | The test that fails then |\n|---|---|---|\n"
	for _, th := range all {
		s += fmt.Sprintf("| %s | %s | %s `%s` |\n", th.name, th.out, strings.TrimPrefix(th.pkg, "internal/"), th.test)
	}
	return s
}

// Every patch still fits, its test is there, every threat of the page has one,
// and the page lists them.
func TestThreatPatchesFitAndCoverThePage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/security.md"))
	if err != nil {
		t.Fatal(err)
	}
	covered := make(map[string]bool)
	for _, th := range threats(t) {
		th.without(t, root)
		covered[th.name] = true
		if !strings.Contains(string(page), "\n| "+th.name+" |") {
			t.Errorf("docs/security.md has no threat %q", th.name)
		}
		tests, err := filepath.Glob(filepath.Join(root, th.pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, name := range tests {
			b, _ := os.ReadFile(name)
			found = found || bytes.Contains(b, []byte("func "+th.test+"("))
		}
		if !found {
			t.Errorf("%s (%s): no test %s in %s", th.name, th.out, th.test, th.pkg)
		}
	}
	if want := "<!-- threats -->" + table(threats(t)) + "<!-- /threats -->"; !strings.Contains(string(page), want) {
		t.Errorf("the table of docs/security.md is not that of testdata/threats.txt; between the marks belongs:\n%s", want)
	}
	_, model, _ := strings.Cut(string(page), "## Threats")
	model, _, _ = strings.Cut(model, "<!-- threats -->")
	for _, row := range regexp.MustCompile(`(?m)^\| ([a-z][^|]*) \|`).FindAllStringSubmatch(model, -1) {
		if !covered[row[1]] {
			t.Errorf("threat %q has no patch in testdata/threats.txt", row[1])
		}
	}
}

// With THREATS, a pattern for those that are meant (. for all), it takes each
// mitigation out, in a copy of the module, and sees its test fail.
func TestThreatsAreNoticed(t *testing.T) {
	if os.Getenv("THREATS") == "" {
		t.Skip("make threats runs it: it takes minutes")
	}
	only := regexp.MustCompile(os.Getenv("THREATS"))
	copied := t.TempDir()
	for _, dir := range []string{"cmd", "internal", "sim", "docs"} {
		if err := os.CopyFS(filepath.Join(copied, dir), os.DirFS(filepath.Join(root, dir))); err != nil && !strings.Contains(err.Error(), fs.ErrExist.Error()) {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"go.mod", "go.sum", "README.md", "Makefile"} {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(copied, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func(th threat) (string, error) {
		cmd := exec.Command("go", "test", "-trimpath", "-count=1", "-timeout", "5m", "-run", "^"+th.test+"$", "./"+th.pkg)
		cmd.Dir = copied
		cmd.Env = append(os.Environ(), "THREATS=", "BATTERY=")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	sound := make(map[string]bool) // tests that pass on what is there
	noticed := 0
	all := slices.DeleteFunc(threats(t), func(th threat) bool { return !only.MatchString(th.name + " " + th.out) })
	for _, th := range all {
		if !sound[th.pkg+th.test] {
			if out, err := run(th); err != nil {
				t.Fatalf("%s fails with nothing taken out: %v\n%s", th.test, err, out)
			}
			sound[th.pkg+th.test] = true
		}
		where := filepath.Join(copied, th.file)
		before, err := os.ReadFile(where)
		if err == nil {
			err = os.WriteFile(where, th.without(t, copied), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		out, err := run(th)
		switch {
		case err == nil:
			t.Errorf("NOT noticed: %s (%s): %s passes without it", th.name, th.out, th.test)
		case strings.Contains(out, "[build failed]"):
			t.Errorf("%s (%s) does not build:\n%s", th.name, th.out, out)
		default:
			noticed++
			t.Logf("noticed: %s (%s) by %s", th.name, th.out, th.test)
		}
		if err := os.WriteFile(where, before, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d noticed", noticed, len(all))
}
