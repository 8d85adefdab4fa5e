package daemon

import (
	"sync"
	"time"
)

// recheck is how long a count holds: it walks everything under the
// registry's lock, which a scrape of fifty thousand connections should not
// do each time.
const recheck = time.Minute

// consistency is whether the relay's books balance, as a metric shows it.
type consistency struct {
	check func() error

	mu   sync.Mutex // guards all below
	next time.Time
	last float64
}

// value is 1 if they do, or did when last counted.
func (c *consistency) value() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); !now.Before(c.next) {
		c.next, c.last = now.Add(recheck), 1
		if c.check() != nil {
			c.last = 0
		}
	}
	return c.last
}
