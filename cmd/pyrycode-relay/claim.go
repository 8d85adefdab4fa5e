package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// claimTime bounds how long a claim may take. A relay gives the binary that
	// held the server-id before up to a minute to answer (--conflict-probe).
	claimTime = 90 * time.Second

	// claimPause is how long a claim is left to be refused before a phone is
	// opened, which could still reach the binary that held the server-id before.
	claimPause = 100 * time.Millisecond

	// claimPatience is after what time the user is told that the claim waits.
	claimPatience = time.Second

	serverInUse = 4409
)

// claimed waits until the relay has decided the claim of binary. The caller has
// started binary.echo. It returns nil once a frame of a phone has passed through this very
// binary, which shows that it holds the server-id. The phone is closed again.
func (d *dialer) claimed(ctx context.Context, binary *peer, out io.Writer) error {
	defer d.sayWaiting(out)()
	deadline := time.NewTimer(claimTime)
	defer deadline.Stop()
	var last error
	for pause := claimPause; ; pause = min(2*pause, lastRetryAfter) {
		select {
		case <-binary.ended:
			return d.notHeld(binary)
		case <-ctx.Done():
			return errInterrupted
		case <-deadline.C:
			return &failure{kindOf(last), fmt.Errorf("it is not known whether the binary holds server-id %s, after %s: %w", d.server, claimTime, last)}
		case <-time.After(pause):
		}
		p, _, err := d.phone(ctx, "the phone that shows whether the binary holds the server-id", binary)
		if err == nil {
			p.close()
			return nil
		}
		switch kindOf(err) {
		case failUnreachable, failTLS, failFrame:
			return err
		}
		last = err
	}
}

// sayWaiting tells the user after a while that the claim waits, unless done is
// called before. Nothing is written after done has returned.
func (d *dialer) sayWaiting(out io.Writer) (done func()) {
	var mu sync.Mutex
	over := false
	told := time.AfterFunc(claimPatience, func() {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			fmt.Fprintf(out, "binary: connected, and waits for the relay to decide who holds server-id %s\n", d.server)
		}
	})
	return func() {
		told.Stop()
		mu.Lock()
		over = true
		mu.Unlock()
	}
}

// notHeld is why a binary does not hold its server-id. Its connection has ended.
func (d *dialer) notHeld(binary *peer) error {
	if websocket.IsCloseError(binary.err, serverInUse) {
		return &failure{failClosed, fmt.Errorf("%w: another binary, which is alive, holds server-id %s", binary.reason(), d.server)}
	}
	return binary.why()
}
