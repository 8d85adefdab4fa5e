// Package golden compares text that a test generates from the code with text in the
// repository. With -update the tests write the text into the repository.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated text instead of comparing it")

// File compares want with the content of a file. name is its path from the root of the
// module.
func File(t testing.TB, name, want string) {
	t.Helper()
	name = filepath.Join(root(t), name)
	got, err := os.ReadFile(name)
	if err != nil && !*update {
		t.Fatal(err)
	}
	check(t, name, string(got), want, want)
}

// Section compares want with the lines of a page between <!-- name --> and
// <!-- /name -->. page is its path from the root of the module.
func Section(t testing.TB, page, name, want string) {
	t.Helper()
	page = filepath.Join(root(t), page)
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->\n"
	before, rest, ok := strings.Cut(string(text), begin)
	got, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no %s… %s", page, begin, end)
	}
	check(t, page, got, want, before+begin+want+end+after)
}

// check compares got with want. If they differ, -update writes text into the file, and
// otherwise the test fails.
func check(t testing.TB, name, got, want, text string) {
	t.Helper()
	switch {
	case got == want:
	case *update:
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		has, wants := strings.Split(got, "\n"), strings.Split(want, "\n")
		n := 0
		for n < min(len(has), len(wants))-1 && has[n] == wants[n] {
			n++
		}
		t.Errorf("%s differs from the code: make docs; first in\n%s\nwant\n%s", name, has[n], wants[n])
	}
}

// root returns the directory of the module that the test belongs to.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("the test runs outside of a module")
		}
		dir = filepath.Dir(dir)
	}
}
