package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

// balancer forwards connections to ready relays, as a load balancer does. It
// polls each relay's /readyz, excludes a relay after two consecutive failures,
// and sends the client's address in a PROXY header.
type balancer struct {
	*load.Forwarder
	every  time.Duration // interval of the readiness checks
	ctx    context.Context
	stop   context.CancelFunc
	checks sync.WaitGroup

	mu     sync.Mutex // guards all below
	relays []*balancedRelay
}

// balancedRelay is one relay of a balancer.
type balancedRelay struct {
	addr, private string
	failures      int // consecutive
}

// failuresAllowed is the number of consecutive failures that excludes a relay.
const failuresAllowed = 2

// newBalancer serves ln until close is called.
func newBalancer(ln net.Listener, every time.Duration) *balancer {
	b := &balancer{every: every}
	b.ctx, b.stop = context.WithCancel(context.Background())
	b.Forwarder = load.Forward(ln, b.dial)
	return b
}

// add registers a relay by its public and its private address.
func (b *balancer) add(addr, private string) {
	r := &balancedRelay{addr: addr, private: private}
	b.mu.Lock()
	b.relays = append(b.relays, r)
	b.mu.Unlock()
	b.checks.Go(func() { b.checkReady(r) })
}

// checkTimeout bounds a readiness check. It is long, so that a slow answer on a
// busy machine does not exclude a relay.
const checkTimeout = 5 * time.Second

// checkReady polls r's /readyz until r's process has ended.
func (b *balancer) checkReady(r *balancedRelay) {
	for load.Wait(b.ctx, b.every); b.ctx.Err() == nil; load.Wait(b.ctx, b.every) {
		_, err := load.PageWithin("http://"+r.private+"/readyz", checkTimeout)
		b.mu.Lock()
		if err == nil {
			r.failures = 0
		} else {
			r.failures++
		}
		b.mu.Unlock()
		if errors.Is(err, syscall.ECONNREFUSED) {
			b.remove(r)
			return
		}
	}
}

// remove deletes r from the list of relays.
func (b *balancer) remove(r *balancedRelay) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.relays = slices.DeleteFunc(b.relays, func(other *balancedRelay) bool { return other == r })
}

// pick returns the relay for the next connection, or "" if none is ready. It
// prefers the oldest relay: until its exclusion a relay that shuts down still
// gets new connections, which is the worst case for a balancer.
func (b *balancer) pick() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.relays {
		if r.failures < failuresAllowed {
			return r.addr
		}
	}
	return ""
}

// dial connects to a relay for the client c. If no relay can be reached, it answers
// c with 503.
func (b *balancer) dial(c net.Conn) (net.Conn, error) {
	to := b.pick()
	far, err := net.Dial("tcp", to) // "" fails
	if err != nil {
		_, _ = http.ReadRequest(bufio.NewReader(c)) // a close with unread bytes would reset the answer
		fmt.Fprint(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return nil, err
	}
	from, here := c.RemoteAddr().(*net.TCPAddr), c.LocalAddr().(*net.TCPAddr)
	fmt.Fprintf(far, "PROXY TCP4 %s %s %d %d\r\n", from.IP, here.IP, from.Port, here.Port)
	return far, nil
}

// close ends all connections through the balancer and waits for them.
func (b *balancer) close() {
	b.stop()
	b.Forwarder.Close()
	b.checks.Wait()
}
