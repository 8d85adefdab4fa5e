package daemon

import (
	"bytes"
	"io"
	"net/http"
	"sync"
)

// recentBytes is how much of the log is kept: some thousand lines of a quiet
// relay, some ten seconds of one that peers make talk as fast as they may.
const recentBytes = 256 << 10

// recent passes the log on and keeps its end, for operators who cannot get at
// what it was passed on to.
type recent struct {
	to io.Writer

	mu   sync.Mutex // guards all below
	ring []byte     // grows to recentBytes, then the oldest are written over
	at   int        // where the oldest begin, once it is full
}

// Write takes whole lines.
func (r *recent) Write(lines []byte) (int, error) {
	r.keep(lines)
	return r.to.Write(lines)
}

func (r *recent) keep(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b = b[max(0, len(b)-recentBytes):]
	n := min(len(b), recentBytes-len(r.ring))
	r.ring = append(r.ring, b[:n]...)
	for b = b[n:]; len(b) > 0; b = b[n:] {
		n = copy(r.ring[r.at:], b)
		r.at = (r.at + n) % recentBytes
	}
}

// lines is what is kept, oldest first; a line of which only the end is left
// is not in it.
func (r *recent) lines() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := append(bytes.Clone(r.ring[r.at:]), r.ring[:r.at]...)
	if len(all) == recentBytes {
		_, all, _ = bytes.Cut(all, []byte("\n"))
	}
	return all
}

// ServeHTTP answers with the lines.
func (r *recent) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(r.lines()) // whoever has gone needs no answer
}
