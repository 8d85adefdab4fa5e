package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
		{fifo, 4, false, "it is a pipe, whose content can be read only once; put the content into a regular file"},
		{os.DevNull, 4, false, "it is no regular file"}, {os.DevNull, 4, true, ""},
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

	// A pipe that nobody writes to costs one goroutine, however often it is
	// asked for, and can be read once somebody does.
	before := readTime
	readTime = 10 * time.Millisecond
	for i, want := range []string{"it could not be read within 10ms", "an earlier attempt to read it has not ended", "an earlier attempt to read it has not ended"} {
		if _, err := ReadFile(fifo, 4, true); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("attempt %d: %v; want %s", i, err, want)
		}
	}
	readTime = before
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		unfinished.Lock()
		left := len(unfinished.names)
		unfinished.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the attempt never ends")
		}
	}
}
