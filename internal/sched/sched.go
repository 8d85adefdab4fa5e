// Package sched lets long computations give way to the goroutines that serve sockets.
//
// Go's scheduler looks for sockets that are ready when a processor has no goroutine to
// run, and otherwise every 10 ms. While all processors compute, a goroutine that waits for
// a socket therefore starts late: up to 36 ms late in a flood of TLS handshakes. Code
// that computes for about a millisecond calls [Yield] in place of runtime.Gosched.
//
// The package imports nothing of this module.
package sched

import (
	"runtime"
	"sync/atomic"
)

// beforeYield is what OnYield has set, or nil.
var beforeYield atomic.Pointer[func()]

// Yield makes the goroutines runnable that wait for sockets with events, and lets all
// runnable goroutines run before the caller.
func Yield() {
	if f := beforeYield.Load(); f != nil {
		(*f)()
	}
	runtime.Gosched()
}

// OnYield makes each Yield call f first. f must not wait. The last call of OnYield
// counts.
func OnYield(f func()) { beforeYield.Store(&f) }
