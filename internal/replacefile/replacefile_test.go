package replacefile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestAFileIsReplacedOrStaysAsItIs(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	readable := func(f *os.File) error { return f.Chmod(0o644) }
	refuses := func(*os.File) error { return errors.New("refused") }
	for _, step := range []struct {
		text    string
		prepare func(*os.File) error
		fails   bool
		content string
		mode    os.FileMode
	}{
		{"first", nil, false, "first", 0o600},
		{"second", readable, false, "second", 0o644},
		{"third", refuses, true, "second", 0o644},
	} {
		if err := Write(name, []byte(step.text), step.prepare); (err != nil) != step.fails {
			t.Errorf("%s: %v", step.text, err)
		}
		got, err := os.ReadFile(name)
		info, serr := os.Stat(name)
		if err != nil || serr != nil || string(got) != step.content || info.Mode().Perm() != step.mode {
			t.Errorf("after %s: %q, %v, %v, %v; want %q, %v", step.text, got, err, info, serr, step.content, step.mode)
		}
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("%d files are left, %v; want 1", len(all), err)
	}
	if err := Write(filepath.Join(dir, "none", "file"), nil, nil); err == nil {
		t.Error("a file in a directory that does not exist was written")
	}
}
