package front

import (
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"
)

// handshakeLimiter is a place for each TLS handshake that may compute at a time: half
// the processors'. A handshake costs as much as hundreds of frames, and whoever
// opens connections need not even finish it. A hundred that compute at once
// would stand before every frame in the scheduler's queue; those that wait for
// a turn do not.
type handshakeLimiter chan struct{}

func newHandshakeLimiter() handshakeLimiter {
	return make(handshakeLimiter, max(1, runtime.GOMAXPROCS(0)/2))
}

// limitedConn has a turn from the end of a Read until the next use of the
// connection, for that is when a handshake computes; never while it waits for
// its peer. Once the first request is there it does nothing any more.
type limitedConn struct {
	net.Conn
	limiter handshakeLimiter
	has     atomic.Bool
	over    atomic.Bool
	closed  atomic.Bool
	waits   atomic.Pointer[time.Time] // since when the peer is waited for; nil: it is not
}

// Read waits for bytes, then for a turn.
func (c *limitedConn) Read(p []byte) (int, error) {
	if c.over.Load() {
		return c.Conn.Read(p)
	}
	c.giveBack()
	now := time.Now()
	c.waits.Store(&now)
	n, err := c.Conn.Read(p)
	c.waits.Store(nil)
	if err == nil {
		c.limiter <- struct{}{}
		c.has.Store(true)
		if c.closed.Load() { // meanwhile: whoever closed it may have found no turn to give back
			c.giveBack()
		}
	}
	return n, err
}

// Write gives the turn back, since it may have to wait.
func (c *limitedConn) Write(p []byte) (int, error) {
	c.giveBack()
	return c.Conn.Write(p)
}

// Close may come from another task, while a Read waits.
func (c *limitedConn) Close() error {
	c.closed.Store(true)
	c.giveBack()
	return c.Conn.Close()
}

// silent is how long the peer has been waited for.
func (c *limitedConn) silent(now time.Time) time.Duration {
	if began := c.waits.Load(); began != nil {
		return now.Sub(*began)
	}
	return 0
}

// NetConn is the connection below.
func (c *limitedConn) NetConn() net.Conn { return c.Conn }

// state is what the server says of c. Once it has read a request the handshake
// is over, and between two it waits.
func (c *limitedConn) state(s http.ConnState) {
	switch s {
	case http.StateActive:
		c.over.Store(true)
		c.giveBack()
		c.waits.Store(nil)
	case http.StateIdle:
		now := time.Now()
		c.waits.Store(&now)
	}
}

func (c *limitedConn) giveBack() {
	if c.has.Swap(false) {
		<-c.limiter
	}
}
