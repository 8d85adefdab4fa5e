package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// progress is one line that says what is going on, on a terminal only.
type progress struct {
	mu    sync.Mutex
	f     *os.File
	on    bool
	wrote bool
	last  time.Time
}

func newProgress(f *os.File) *progress {
	info, err := f.Stat()
	return &progress{f: f, on: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (p *progress) say(format string, a ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.on || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last, p.wrote = time.Now(), true
	fmt.Fprintf(p.f, "\r\x1b[K"+format, a...)
}

func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wrote {
		fmt.Fprint(p.f, "\r\x1b[K")
		p.wrote = false
	}
}

// connecting and running are what most commands say.
func (p *progress) connecting(done, of int) { p.say("connecting: %d of %d", done, of) }

func (p *progress) running(what string) func(uint64, time.Duration) {
	return func(n uint64, since time.Duration) {
		p.say("%s: %d frames in %.0f s, %.0f per second", what, n, since.Seconds(), float64(n)/since.Seconds())
	}
}
