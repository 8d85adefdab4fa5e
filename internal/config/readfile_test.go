package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience limits every wait of these tests. No test that passes reaches it.
const patience = 10 * time.Second

func TestReadingAFileHasABound(t *testing.T) {
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	write(t, file, "text")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		most  int64
		pipes bool
		want  string // the text, or what the error says
	}{
		{file, 4, false, "text"}, {file, 3, true, "it is longer than 3 bytes"},
		{dir, 4, false, "it is a directory"}, {dir, 4, true, "is a directory"},
		{filepath.Join(dir, "none"), 4, false, "no such file or directory"},
		{fifo, 4, false, "it is a pipe, which can be read only once; put the content into a regular file"},
		{os.DevNull, 4, false, "it is not a regular file"}, {os.DevNull, 4, true, ""},
	} {
		text, err := ReadFile(tt.name, tt.most, tt.pipes)
		got := string(text)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%s: %q; want %q", tt.name, got, tt.want)
		}
	}

	// A pipe without a writer costs one goroutine, even with many attempts, and can
	// be read once it has a writer.
	before := readTime
	readTime = 10 * time.Millisecond
	for i, want := range []string{"it could not be read within 10ms", "an earlier attempt to read it has not ended", "an earlier attempt to read it has not ended"} {
		if _, err := ReadFile(fifo, 4, true); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("attempt %d: %v; want %s", i, err, want)
		}
	}
	readTime = before
	release(t, fifo)
}

// hangingReads returns the number of files at which attempts hang.
func hangingReads() (n int) {
	unfinished.Lock()
	defer unfinished.Unlock()
	for step := range unfinished.steps {
		if strings.HasPrefix(step, "read ") {
			n++
		}
	}
	return n
}

// release ends the attempts that hang at pipes, and waits until no attempt hangs.
func release(t *testing.T, pipes ...string) {
	t.Helper()
	for _, fifo := range pipes {
		// Without O_NONBLOCK the open waits for a reader. An attempt that is given
		// up before it opens the pipe is no reader.
		w, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			w.Close()
		} else if !errors.Is(err, syscall.ENXIO) {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		unfinished.Lock()
		left, steps := unfinished.total, len(unfinished.steps)
		unfinished.Unlock()
		if left == 0 && steps == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d attempts at %d steps never end", left, steps)
		}
	}
}

// A file that hangs must not make its name unusable: a file that replaces it is read.
func TestAFileThatReplacesOneThatHangsIsRead(t *testing.T) {
	before := readTime
	defer func() { readTime = before }()
	for _, tt := range []struct {
		name  string
		below string                               // what is read, below the directory
		hang  func(dir, fifo string) error         // makes it hang
		mend  func(dir, fifo, parked string) error // replaces the pipe by a good file, and moves it to parked
		again func(dir, fifo, parked string) error // makes it hang as before
	}{
		{
			"the file itself", "web.yml",
			func(dir, fifo string) error { return os.Rename(fifo, dir+"/web.yml") },
			func(dir, _, parked string) error {
				return errors.Join(os.Rename(dir+"/web.yml", parked), os.WriteFile(dir+"/web.yml", []byte("good"), 0o600))
			},
			func(dir, _, parked string) error { return os.Rename(parked, dir+"/web.yml") },
		},
		{
			"a link", "web.yml",
			func(dir, fifo string) error { return os.Symlink(fifo, dir+"/web.yml") },
			func(dir, fifo, parked string) error {
				return errors.Join(os.Rename(fifo, parked), os.Remove(dir+"/web.yml"), os.WriteFile(dir+"/web.yml", []byte("good"), 0o600))
			},
			func(dir, _, parked string) error {
				return errors.Join(os.Remove(dir+"/web.yml"), os.Symlink(parked, dir+"/web.yml"))
			},
		},
		{
			"a link to its directory", "data/web.yml", // as Kubernetes has it
			func(dir, fifo string) error {
				return errors.Join(os.Mkdir(dir+"/one", 0o700), os.Mkdir(dir+"/two", 0o700), os.WriteFile(dir+"/two/web.yml", []byte("good"), 0o600),
					os.Rename(fifo, dir+"/one/web.yml"), os.Symlink("one", dir+"/data"))
			},
			func(dir, _, parked string) error {
				return errors.Join(os.Link(dir+"/one/web.yml", parked), os.Remove(dir+"/data"), os.Symlink("two", dir+"/data"))
			},
			func(dir, _, _ string) error {
				return errors.Join(os.Remove(dir+"/data"), os.Symlink("one", dir+"/data"))
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, pipes := t.TempDir(), t.TempDir()
			fifo, parked := filepath.Join(pipes, "fifo"), filepath.Join(pipes, "parked")
			name := filepath.Join(dir, tt.below)
			if err := errors.Join(syscall.Mkfifo(fifo, 0o600), tt.hang(dir, fifo)); err != nil {
				t.Fatal(err)
			}
			readTime = 10 * time.Millisecond
			for hangingReads() == 0 { // on a busy machine an attempt may be given up before it opens the pipe
				if _, err := ReadFile(name, 4, true); err == nil {
					t.Fatal("a pipe without a writer is read")
				}
			}
			readTime = before
			if _, err := ReadFile(name, 4, true); !errors.Is(err, errHangs) {
				t.Errorf("while it hangs: %v; want %v", err, errHangs)
			}
			if err := tt.mend(dir, fifo, parked); err != nil {
				t.Fatal(err)
			}
			if text, err := ReadFile(name, 4, true); err != nil || string(text) != "good" {
				t.Errorf("the file that replaces it: %q, %v", text, err)
			}
			if err := tt.again(dir, fifo, parked); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadFile(name, 4, true); !errors.Is(err, errHangs) {
				t.Errorf("the file that hangs still: %v; want %v", err, errHangs)
			}
			release(t, name)
		})
	}
}

func TestTheFilesThatHangHaveABound(t *testing.T) {
	dir, before := t.TempDir(), readTime
	defer func() { readTime = before }()
	good := filepath.Join(dir, "good")
	write(t, good, "good")
	readTime = 20 * time.Millisecond
	var pipes []string
	for i := 0; hangingReads() < maxUnfinished; i++ {
		fifo := filepath.Join(dir, fmt.Sprint(i))
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(fifo, 4, true); err == nil {
			t.Fatalf("pipe %d is read, and it has no writer", i)
		}
		pipes = append(pipes, fifo)
	}
	readTime = before
	if _, err := ReadFile(good, 4, false); err == nil || !strings.HasPrefix(err.Error(), "64 earlier attempts to read files have not ended") {
		t.Errorf("with %d files that hang: %v", len(pipes), err)
	}
	release(t, pipes...)
	if text, err := ReadFile(good, 4, false); err != nil || string(text) != "good" {
		t.Errorf("once they have ended: %q, %v", text, err)
	}
}

// An attempt that was given up takes no further step.
func TestAnAttemptThatIsGivenUpTakesNoFurtherStep(t *testing.T) {
	a, b := new(attempt), new(attempt)
	if err := errors.Join(a.enter("one"), b.enter("one")); err != nil || !a.giveUp() {
		t.Fatal(err)
	}
	if err := new(attempt).enter("one"); !errors.Is(err, errHangs) {
		t.Errorf("a step that hangs is taken: %v", err)
	}
	if err := b.enter("two"); err != nil {
		t.Errorf("an attempt that does not hang: %v", err)
	}
	if err := a.enter("two"); !errors.Is(err, errHangs) {
		t.Errorf("an attempt that was given up goes on: %v", err)
	}
	if err := new(attempt).enter("one"); err != nil {
		t.Errorf("a step that hangs no more: %v", err)
	}
	if a.end(); a.giveUp() {
		t.Error("an attempt that has ended is given up")
	}
}
