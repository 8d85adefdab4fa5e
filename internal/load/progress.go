package load

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Progress shows the state of a run in one line of a terminal. If the output is
// not a terminal, it shows nothing. Output through Writer replaces the line.
type Progress struct {
	mu    sync.Mutex
	to    io.Writer
	on    bool // to is a terminal that can remove a line
	shown bool
	inner bool // the last write through Writer did not end with a newline
	last  time.Time
}

const (
	// progressWidth is the maximum width of the line. A line that wraps cannot be
	// removed.
	progressWidth = 79

	// progressEvery is the minimum time between two updates.
	progressEvery = 100 * time.Millisecond

	removeLine = "\r\x1b[K"
)

// NewProgress returns a progress line on w.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{to: w}
	if f, ok := w.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		p.on = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// Show replaces the line. It does nothing within progressEvery of the previous
// update, or while other output has an incomplete line.
func (p *Progress) Show(format string, a ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.on || p.inner || time.Since(p.last) < progressEvery {
		return
	}
	p.last, p.shown = time.Now(), true
	fmt.Fprintf(p.to, removeLine+"%.*s", progressWidth, fmt.Sprintf(format, a...))
}

// Writer returns a writer to w that removes the line before each write.
func (p *Progress) Writer(w io.Writer) io.Writer { return behind{p, w} }

type behind struct {
	*Progress
	w io.Writer
}

// Write implements io.Writer.
func (b behind) Write(text []byte) (int, error) {
	p := b.Progress
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

// Connecting shows the progress of Connect.
func (p *Progress) Connecting(done, of int) { p.Show("connecting: %d of %d", done, of) }

// Running returns a function that shows the progress of Fleet.Run.
func (p *Progress) Running(what string) func(uint64, time.Duration) {
	return func(n uint64, since time.Duration) {
		rate := 0.0
		if since > 0 {
			rate = float64(n) / since.Seconds()
		}
		p.Show("%s: %d frames in %.1f s, %.0f per second", what, n, since.Seconds(), rate)
	}
}
