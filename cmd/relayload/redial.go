package main

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoffSteps is how long a deployed client waits after each failure in a row,
// in multiples of the first wait (1 s). The last step repeats.
var backoffSteps = [...]int{1, 2, 4, 8, 16, 30}

const (
	// backoffJitter is how far each wait may be off its step, in either direction.
	backoffJitter = 0.2
	// backoffReset is how long a connection must last before the next failure
	// starts at the first step again.
	backoffReset = time.Minute
	// instantRedial is what a deployed daemon waits after a close frame.
	instantRedial = time.Millisecond
	// upgradeTimeout is how long clients wait for the answer to an upgrade.
	// Deployed daemons wait for 40 s and more.
	upgradeTimeout = 45 * time.Second
)

// ending says how an attempt to be connected ended.
type ending struct {
	lasted time.Duration // the age of the connection; 0 if the attempt failed
	closed bool          // the relay sent a close frame
}

// backoff decides how long a client waits before it dials again. It ignores
// Retry-After, as the deployed clients do.
type backoff struct {
	first  time.Duration // the first step: 1 s in deployed clients
	daemon bool          // redials immediately after a close frame; phones never do
	step   int           // the index into backoffSteps of the next wait
}

// after returns the wait that follows e. A close frame does not cost a daemon a
// step. A connection younger than backoffReset keeps the step that the client
// had reached before it.
func (b *backoff) after(e ending) time.Duration {
	if e.lasted >= backoffReset {
		b.step = 0
	}
	if b.daemon && e.closed {
		return instantRedial
	}
	wait := b.first * time.Duration(backoffSteps[b.step])
	b.step = min(b.step+1, len(backoffSteps)-1)
	return time.Duration(float64(wait) * (1 - backoffJitter + 2*backoffJitter*rand.Float64()))
}

// keep calls connect, waits as b says, and calls it again, until ctx ends.
// connect returns when its connection has ended.
func (b *backoff) keep(ctx context.Context, connect func() ending) {
	for ctx.Err() == nil {
		e := connect()
		wait(ctx, b.after(e))
	}
}
