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

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustertest"
)

// The directory needs several seconds to elect a leader. Relays must stay ready during
// that time; otherwise all relays become unready together.
func TestARelayIsNotReadyOnceItsDirectoryIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var silent atomic.Bool
		answers := func() error {
			if silent.Load() {
				return errors.New("no answer")
			}
			return nil
		}
		port := clustertest.NewMemory(nil).Port()
		node, err := cluster.New(cluster.Config{Store: port, Bus: port})
		if err != nil {
			t.Fatal(err)
		}
		reg, c := prometheus.NewRegistry(), clustered{connected: func() bool { return true }, node: node}
		if err := c.register(reg); err != nil {
			t.Fatal(err)
		}
		var ready readiness
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			watchDirectory(ctx, answers, slog.New(slog.NewTextHandler(io.Discard, nil)), &ready, &c.silent)
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
		wait(time.Minute, true)
		silent.Store(true)
		wait(8*time.Second, true)
		silent.Store(false)
		wait(directoryCheckEvery, true)
		silent.Store(true)
		wait(silentFor+2*directoryCheckEvery, false)
		wait(time.Minute, false)
		silent.Store(false)
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
