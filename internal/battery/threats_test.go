package battery

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// without is th's file with the mitigation taken out.
func (th threat) without(t *testing.T) []byte {
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

// Every patch still fits, its test is there, and every threat of the page
// has one.
func TestThreatPatchesFitAndCoverThePage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/security.md"))
	if err != nil {
		t.Fatal(err)
	}
	covered := make(map[string]bool)
	for _, th := range threats(t) {
		th.without(t)
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
	_, model, _ := strings.Cut(string(page), "## Threats")
	model, _, _ = strings.Cut(model, "<!-- threats -->")
	for _, row := range regexp.MustCompile(`(?m)^\| ([a-z][^|]*) \|`).FindAllStringSubmatch(model, -1) {
		if !covered[row[1]] {
			t.Errorf("threat %q has no patch in testdata/threats.txt", row[1])
		}
	}
}

// THREATS=1 takes out each mitigation, in a copy of the module, and sees its
// test fail; then it writes the table into docs/security.md. Some minutes.
func TestThreatsAreNoticed(t *testing.T) {
	if os.Getenv("THREATS") == "" {
		t.Skip("make threats runs it: it takes minutes")
	}
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
	table := "\n| Threat | Taken out | The test that fails then |\n|---|---|---|\n"
	sound := make(map[string]bool) // tests that pass on what is there
	noticed := 0
	for _, th := range threats(t) {
		if !sound[th.pkg+th.test] {
			if out, err := run(th); err != nil {
				t.Fatalf("%s fails with nothing taken out: %v\n%s", th.test, err, out)
			}
			sound[th.pkg+th.test] = true
		}
		where := filepath.Join(copied, th.file)
		before, err := os.ReadFile(where)
		if err == nil {
			err = os.WriteFile(where, th.without(t), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		out, err := run(th)
		switch {
		case err == nil:
			t.Errorf("NOT NOTICED: %s (%s): %s passes without it", th.name, th.out, th.test)
		case strings.Contains(out, "[build failed]"):
			t.Errorf("%s (%s) does not build:\n%s", th.name, th.out, out)
		default:
			noticed++
			table += fmt.Sprintf("| %s | %s | %s `%s` |\n", th.name, th.out, strings.TrimPrefix(th.pkg, "internal/"), th.test)
			t.Logf("noticed: %s (%s) by %s", th.name, th.out, th.test)
		}
		if err := os.WriteFile(where, before, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d noticed", noticed, len(threats(t)))
	if t.Failed() {
		return
	}
	name := filepath.Join(root, "docs/security.md")
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const mark, end = "<!-- threats -->", "<!-- /threats -->"
	head, rest, ok := strings.Cut(string(page), mark)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("docs/security.md has no %s … %s", mark, end)
	}
	if err := os.WriteFile(name, []byte(head+mark+table+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
