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
	// claimTime is the longest time that a claim may take. The relay gives the holder
	// of the server-id up to a minute to answer (--conflict-probe).
	claimTime = 90 * time.Second

	// claimPause is the time between the claim and the first phone. In it the relay can
	// refuse the claim; a phone that comes earlier may still reach the former holder.
	claimPause = 100 * time.Millisecond

	// claimPatience is the time after which the user is told that the claim waits.
	claimPatience = time.Second

	serverInUse = 4409
)

// claimed waits until the relay has decided the claim of binary. It returns nil when a
// frame of a phone has passed through binary itself, which shows that it holds the
// server-id. It closes the phone. The caller must have started binary.echo.
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

// sayWaiting writes to out after claimPatience that the claim waits, unless done is
// called before. After done has returned, it writes nothing.
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

// notHeld returns the reason why binary does not hold its server-id. The connection of
// binary must have ended.
func (d *dialer) notHeld(binary *peer) error {
	if websocket.IsCloseError(binary.err, serverInUse) {
		return &failure{failClosed, fmt.Errorf("%w: another binary, which is alive, holds server-id %s", binary.reason(), d.server)}
	}
	return binary.why()
}
