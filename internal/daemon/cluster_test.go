package daemon

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
)

// leaderless is a directory.Connection of which only Leads is called.
type leaderless struct{ directory.Connection }

func (leaderless) Leads() bool { return false }

// The directory needs up to two seconds to elect a leader. Relays must stay ready during
// that time; otherwise all relays become unready together.
func TestARelayIsNotReadyOnceItsDirectoryIsSilent(t *testing.T) {
	m := newSharedMemory(t)
	node, err := cluster.New(cluster.Config{Directory: m.Port(), Network: m.Wire()})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var silentSince atomic.Pointer[time.Time]
		renewed := func() time.Time {
			if at := silentSince.Load(); at != nil {
				return *at
			}
			return time.Now()
		}
		reg, c := prometheus.NewRegistry(), clustered{directory: leaderless{}, node: node}
		if err := c.register(reg); err != nil {
			t.Fatal(err)
		}
		var ready readiness
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			watchDirectory(ctx, renewed, slog.New(slog.NewTextHandler(io.Discard, nil)), &ready, &c.silent)
		}()
		wait := func(d time.Duration, want bool) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := ready.get(); (got == "") != want {
				t.Errorf("after %v: %q; want ready: %v", d, got, want)
			}
			if got := gaugeOf(t, reg, "pyrycode_relay_cluster_directory_answers"); (got == 1) != want {
				t.Errorf("after %v: pyrycode_relay_cluster_directory_answers is %v; want it to say ready: %v", d, got, want)
			}
		}
		silence := func() { now := time.Now(); silentSince.Store(&now) }
		wait(time.Minute, true)
		silence()
		wait(3*time.Second, true)
		silentSince.Store(nil)
		wait(directoryCheckEvery, true)
		silence()
		wait(silentFor+2*directoryCheckEvery, false)
		wait(time.Minute, false)
		silentSince.Store(nil)
		wait(2*directoryCheckEvery, true)
		stop()
		<-done
	})
}

// gaugeOf returns the value of a gauge without labels.
func gaugeOf(t *testing.T, reg prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}
