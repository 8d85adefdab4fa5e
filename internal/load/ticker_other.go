//go:build !linux

package load

import "time"

// ticker ticks at intervals of microseconds.
type ticker struct{ *time.Ticker }

func newTicker(every time.Duration) (*ticker, error) { return &ticker{time.NewTicker(every)}, nil }

// wait waits for a tick and returns the number of ticks since the last call.
func (t *ticker) wait() (int, error) {
	<-t.C
	return 1, nil
}

func (t *ticker) close() { t.Stop() }
