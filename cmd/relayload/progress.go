package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// progress is one line on a terminal that says what a run does now. Elsewhere,
// in a file or a log, there is none. It never stays behind: whatever is written
// through writer comes in its place.
type progress struct {
	mu    sync.Mutex
	to    io.Writer
	on    bool // to is a terminal that can remove a line
	shown bool
	inner bool // what was written through writer has not ended its line
	last  time.Time
}

const (
	// progressWidth is how much of the line is shown: a line that wraps cannot be
	// removed.
	progressWidth = 79

	// progressEvery is the least time between two lines.
	progressEvery = 100 * time.Millisecond

	removeLine = "\r\x1b[K"
)

func newProgress(f *os.File) *progress {
	info, err := f.Stat()
	return &progress{to: f, on: err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"}
}

// show shows the line, unless one was shown just now or other output has not
// ended its line.
func (p *progress) show(format string, a ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.on || p.inner || time.Since(p.last) < progressEvery {
		return
	}
	p.last, p.shown = time.Now(), true
	fmt.Fprintf(p.to, removeLine+"%.*s", progressWidth, fmt.Sprintf(format, a...))
}

// writer returns a writer to w that removes the line before each write.
func (p *progress) writer(w io.Writer) io.Writer { return behind{p, w} }

type behind struct {
	*progress
	w io.Writer
}

// Write implements io.Writer.
func (b behind) Write(text []byte) (int, error) {
	p := b.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.to, removeLine)
		p.shown = false
	}
	if len(text) > 0 {
		p.inner = text[len(text)-1] != '\n'
	}
	return b.w.Write(text)
}

// connecting and running are what most commands say.
func (p *progress) connecting(done, of int) { p.show("connecting: %d of %d", done, of) }

func (p *progress) running(what string) func(uint64, time.Duration) {
	return func(n uint64, since time.Duration) {
		rate := 0.0
		if since > 0 {
			rate = float64(n) / since.Seconds()
		}
		p.show("%s: %d frames in %.1f s, %.0f per second", what, n, since.Seconds(), rate)
	}
}
