package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Choosing a new leader takes the directory some seconds: no reason to send
// clients away, from all relays at once.
func TestARelayIsNotReadyOnceItsDirectoryIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var silent atomic.Bool
		answers := func() error {
			if silent.Load() {
				return errors.New("no answer")
			}
			return nil
		}
		var ready readiness
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			watchDirectory(ctx, answers, slog.New(slog.NewTextHandler(io.Discard, nil)), &ready)
		}()
		wait := func(d time.Duration, want bool) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := ready.get(); (got == "") != want {
				t.Errorf("after %v: %q; want ready: %v", d, got, want)
			}
		}
		wait(time.Minute, true)
		silent.Store(true)
		wait(8*time.Second, true)
		silent.Store(false)
		wait(lookEvery, true)
		silent.Store(true)
		wait(silentFor+2*lookEvery, false)
		wait(time.Minute, false)
		silent.Store(false)
		wait(2*lookEvery, true)
		stop()
		<-done
	})
}
