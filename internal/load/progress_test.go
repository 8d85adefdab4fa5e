package load

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// screen returns the lines that a terminal of 80 columns shows for text.
func screen(text string) []string {
	lines := []string{""}
	for text != "" {
		last := &lines[len(lines)-1]
		switch {
		case strings.HasPrefix(text, removeLine):
			*last, text = "", text[len(removeLine):]
		case text[0] == '\n':
			lines, text = append(lines, ""), text[1:]
		default:
			if *last += text[:1]; len(*last) == 80 {
				lines = append(lines, "")
			}
			text = text[1:]
		}
	}
	return lines
}

// Only the report remains on the screen, in any order of report and progress.
func TestTheProgressLineLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tty bytes.Buffer
		p := &Progress{to: &tty, on: true}
		out := p.Writer(&tty)
		say := func(what string) {
			time.Sleep(progressEvery)
			p.Show("%s", what)
		}
		say("connecting: 1 of 2")
		say(strings.Repeat("long ", 50))
		say("short")
		fmt.Fprintln(out, "first row")
		say("more")
		fmt.Fprint(out, "half a ")
		say("between")
		fmt.Fprintln(out, "row")
		say("last")
		fmt.Fprint(out, "") // as at the end of a run
		if got, want := strings.Join(screen(tty.String()), "|"), "first row|half a row|"; got != want {
			t.Errorf("the screen shows %q; want %q", got, want)
		}
		if !strings.Contains(tty.String(), "short") {
			t.Error("the progress was never shown")
		}
	})
}

// Without a terminal the progress writes nothing.
func TestThereIsNoProgressInALog(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := NewProgress(f)
	p.Show("connecting: 1 of 2")
	fmt.Fprintln(p.Writer(f), "report")
	p.Show("more")
	fmt.Fprint(p.Writer(f), "")
	got, err := os.ReadFile(f.Name())
	if err != nil || string(got) != "report\n" {
		t.Errorf("the log is %q, %v; want the report", got, err)
	}
}
