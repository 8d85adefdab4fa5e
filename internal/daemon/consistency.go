package daemon

import (
	"context"
	"sync"
	"time"
)

// recheck is how long a count holds: it walks everything under the
// registry's lock, a millisecond with fifty thousand connections. No scrape
// and no page waits for it.
const recheck = time.Minute

// consistency is whether the relay's books balance.
type consistency struct {
	check func() error

	mu   sync.Mutex // guards last
	last error
}

// newConsistency has counted once.
func newConsistency(check func() error) *consistency {
	return &consistency{check: check, last: check()}
}

// watch counts again every minute until ctx ends.
func (c *consistency) watch(ctx context.Context) {
	every(ctx, recheck, func() {
		err := c.check()
		c.mu.Lock()
		c.last = err
		c.mu.Unlock()
	})
}

// every calls f each time that so much has gone by, until ctx ends.
func every(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// err is what differed when they were last counted.
func (c *consistency) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// value is 1 if they balance, else 0.
func (c *consistency) value() float64 {
	if c.err() != nil {
		return 0
	}
	return 1
}
