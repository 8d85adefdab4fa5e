package battery

import (
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// endsWell tells c to end and waits until it has.
func (c *child) endsWell() {
	c.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	if err := c.cmd.Wait(); err != nil {
		c.t.Errorf("after SIGTERM: %v; want exit 0", err)
	}
}

// The log's reader reads no further, or has gone, while peers make the relay log
// as much as they can.
func TestRow32TheLogStandsStill(t *testing.T) {
	parallel(t)
	for _, tt := range []struct{ name, reason string }{
		{"no reader", "queue_full"},
		{"the reader has gone", "write_failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			c := startChildLog(t, func(cfg *config.Config) { cfg.LogLevel = "debug" }, w)
			w.Close()
			if tt.reason == "write_failed" {
				log.Close()
			}
			h := c.pair()
			goroutines, memory := c.metric("go_goroutines"), c.metric("process_resident_memory_bytes")
			connections := dose(300, 30_000)
			given(t, "%d phones without a binary", connections)
			var floods sync.WaitGroup
			for range 8 {
				floods.Go(func() {
					for range connections / 8 {
						if p, _, err := c.dial("/v1/client", "nobody", ""); err == nil {
							codeOf(p)
							p.Close()
						}
					}
				})
			}
			floods.Wait()
			lost := c.metric(`pyrycode_relay_log_records_lost_total{reason="` + tt.reason + `"}`)
			if lost == 0 && tt.reason == "write_failed" { // the queue holds what the limit of the log lets through in a minute
				t.Error("no record is counted as lost")
			}
			t.Logf("refused 0 connections, lost %.0f log records", lost)
			c.until("the goroutines of the flood have ended", func() bool { return c.metric("go_goroutines") < goroutines+20 })
			if grown := c.metric("process_resident_memory_bytes") - memory; grown > 32<<20 && !raced {
				t.Errorf("resident memory has grown by %.0f MiB; want at most 32", grown/(1<<20))
			}
			h.check()
			c.endsWell()
		})
	}
}

// Signals come while the relay starts: in its first milliseconds, and while it
// waits for a cluster that does not answer.
func TestRow33SignalsDuringTheStart(t *testing.T) {
	parallel(t)
	mute, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, no process answers
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	c := startChild(t, nil)
	h := c.pair()
	signals := dose(10, 200)
	given(t, "%d signals in the first 100 ms, half of them while it waits for a directory", signals)
	early := 0
	for i := range signals {
		cmd := childCommand(t, func(cfg *config.Config) {
			if i%2 == 0 {
				cfg.Cluster, cfg.ClusterSecret, cfg.ClusterListen = "http://"+mute.Addr().String(), "0123456789abcdef", freeAddress(t)
			}
		})
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(100 * time.Millisecond)) // the dose, not a wait
		if i%5 == 0 {
			_ = cmd.Process.Signal(syscall.SIGHUP)
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		late.Stop()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			// Before Go's runtime catches signals, the kernel ends the process.
			if s := exit.Sys().(syscall.WaitStatus); s.Signaled() && (s.Signal() == syscall.SIGTERM || s.Signal() == syscall.SIGHUP) {
				early++
				continue
			}
		}
		if err != nil {
			t.Errorf("signal %d: %v; want exit 0", i, err)
		}
	}
	if early == signals {
		t.Error("every signal came before the runtime: nothing was tested")
	}
	t.Logf("refused 0: %d of %d ended by the relay, %d before it could catch a signal", signals-early, signals, early)
	h.check()
}
