package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestAddAndRemoveKeepAllOtherLines(t *testing.T) {
	text := []byte("# mine\ns1  # first\n\ns2 phones=3") // without a newline at its end
	text, err := Add(text, Line{Subject: SubjectOf("s3"), Note: "third"})
	if err != nil {
		t.Fatal(err)
	}
	want := "# mine\ns1  # first\n\ns2 phones=3\nsha256:" + SubjectOf("s3").String() + "  # third\n"
	if string(text) != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	if _, err := Add(text, Line{Subject: SubjectOf("s1")}); err == nil {
		t.Error("the same server-id was added twice")
	}
	text, err = Remove(text, func(l Line) bool { return l.Subject == SubjectOf("s1") })
	if want = strings.Replace(want, "s1  # first\n", "", 1); err != nil || string(text) != want {
		t.Errorf("got\n%s, %v\nwant\n%s", text, err, want)
	}
	if _, err := Remove(text, func(l Line) bool { return l.Subject == SubjectOf("s1") }); !errors.Is(err, ErrNoEntry) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestTheFileWithoutItsLastEntryIsNotEmpty(t *testing.T) {
	text, err := Remove([]byte("s1\n"), func(Line) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	if b, err := ParseBook(text, ServerIDs); err != nil || b.Len() != 0 {
		t.Errorf("%q: %v", text, err)
	}
}

func TestAnEditReplacesTheFileInOneStep(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "access")
	if err := EditFile(name, func(text []byte) ([]byte, error) { return Add(text, Line{Subject: SubjectOf("s1")}) }); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("access", link); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(name)
	failure := errors.New("no")
	if err := EditFile(link, func([]byte) ([]byte, error) { return nil, failure }); !errors.Is(err, failure) {
		t.Error(err)
	}
	if after, _ := os.ReadFile(name); string(after) != string(before) {
		t.Error("an edit that failed has changed the file")
	}
	if err := EditFile(link, func(text []byte) ([]byte, error) { return Add(text, Line{Subject: SubjectOf("s2")}) }); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode is %v, %v; want 0600", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestConcurrentEditsLoseNothing(t *testing.T) {
	name := filepath.Join(t.TempDir(), "access")
	const n = 20
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			err := EditFile(name, func(text []byte) ([]byte, error) { return Add(text, Line{Subject: SubjectOf(fmt.Sprint(i))}) })
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := ParseBook(text, ServerIDs); err != nil || b.Len() != n {
		t.Errorf("%d entries, %v; want %d", b.Len(), err, n)
	}
}
