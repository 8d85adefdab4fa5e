package battery

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// One address takes as much of the relay's processors as it can, in every way that
// frames allow. Peers of other addresses, those of the same one, and newcomers do
// not notice. Binaries that send only bad envelopes are closed, and the rate of upgrades
// then bounds what they can do.
func TestRow38ProcessorTimeIsSharedFairly(t *testing.T) {
	for _, name := range floodKinds {
		for _, from := range []string{"127.0.0.2", "127.0.0.1"} {
			t.Run(name+" from "+from, func(t *testing.T) {
				conns := dose(20, 200)
				given(t, "%d connections of one address", conns)
				kind := floods[name]
				var cert, key string
				c := &child{}
				if kind.chunks > 0 {
					cert, key, c.tls = selfSigned(t)
				}
				client := c.tls
				usual := config.Default()
				c = startChild(t, func(c *config.Config) {
					c.TLSCert, c.TLSKey = cert, key
					c.Rate, c.Burst = usual.Rate, usual.Burst
				})
				c.tls = client
				h := c.pair()
				end := c.flood(flood{Kind: name, From: from, Conns: conns, MBytes: 80})
				time.Sleep(dose(100*time.Millisecond, time.Second)) // until all are there
				before, begun := c.metric("process_cpu_seconds_total"), time.Now()
				select {
				case <-h.enough:
				case <-h.ended:
				}
				took := time.Since(begun)
				used := c.metric("process_cpu_seconds_total") - before
				arrived := time.Now()
				newcomer, _, err := c.dial("/v1/server", "newcomer", "127.0.0.3")
				if err != nil {
					t.Fatalf("a newcomer: %v", err)
				}
				newcomer.Close()
				waited := time.Since(arrived)
				if kind.bad {
					c.until("binaries are closed for bad envelopes", func() bool {
						return c.metric(`pyrycode_relay_close_frames_total{code="1008",side="relay"}`) > 0
					})
				}
				sent, dialled := end()
				t.Logf("%.0f MB/s, relay %.2f processors, %.1f ns of the relay a byte, %d dialled, newcomer %v", float64(sent)/1e6/took.Seconds(), used/took.Seconds(), used*1e9/float64(sent), dialled, waited)
				h.check()
			})
		}
	}
}

// A binary reads slowly. Phones of one address flood it, and leave and join again for a
// fresh share of its outbox. The frames of a phone of another address wait for one share,
// and what the kernel holds, and not for all that has been sent.
func TestRow40APhoneThatJoinsAgainDelaysItsSiblingsNoMore(t *testing.T) {
	const bytesPerSecond = 2 << 20 // that the binary reads
	const share = 1 << 20          // the default outbox of 16 MiB, for 16 phones
	phones, duration := dose(2, 8), dose(3*time.Second, 20*time.Second)
	given(t, "%d phones for %v; the binary reads %d MiB/s", phones, duration, bytesPerSecond>>20)
	n := start(t, nil)
	h := n.pair()
	b := n.raw("/v1/server", "slow")
	_ = b.SetDeadline(time.Time{})
	if err := b.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	n.until("the slow binary is there", func() bool { return n.metric("pyrycode_relay_connected_binaries") == 2 })
	arrived := make(chan time.Time, 1)
	var all sync.WaitGroup
	all.Go(func() {
		next := time.Now()
		for {
			f, err := wstest.ReadFrame(b)
			if err != nil {
				return
			}
			if strings.HasSuffix(string(f.Payload), `"frame":"sibling"}`) {
				arrived <- time.Now()
			}
			if next = next.Add(time.Duration(len(f.Payload)) * time.Second / bytesPerSecond); next.Before(time.Now()) {
				next = time.Now()
			}
			time.Sleep(time.Until(next))
		}
	})
	sibling := n.mustDial("/v1/client", "slow")
	done, joined := make(chan struct{}), new(atomic.Int64)
	flood := strings.Repeat(frame(0x81, `"`+strings.Repeat("x", 60<<10)+`"`), 15) + frame(0x88, "\x03\xe8") // a share, and a close
	for range phones {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				c, err := n.tryRaw("/v1/client", "slow", "127.0.0.2")
				if err != nil {
					continue
				}
				joined.Add(1)
				_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond)) // then it leaves without an answer
				_, _ = io.WriteString(c, flood)
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			}
		})
	}
	var worst time.Duration
	for end := time.Now().Add(duration); time.Now().Before(end); {
		sent := time.Now()
		if err := sibling.WriteMessage(wstest.Text, []byte(`"sibling"`)); err != nil {
			t.Fatal(err)
		}
		select {
		case at := <-arrived:
			worst = max(worst, at.Sub(sent))
		case <-time.After(patience):
			t.Fatal("a frame of the sibling does not arrive")
		}
	}
	close(done)
	b.Close()
	all.Wait()
	explained := time.Second * share / bytesPerSecond
	t.Logf("worst latency of a sibling: %v; a share takes %v; %d joins", worst, explained, joined.Load())
	most := 3 * explained
	if raced {
		most = 5 * explained // of the processors, the detector takes what the peers need
	}
	if worst > most {
		t.Errorf("a frame of a sibling took %v; want at most %v", worst, most)
	}
	h.check()
}

// A holder sends something all the time and answers no ping. Its owner, which redials,
// is not kept waiting for an answer that never comes.
func TestRow43AClaimIsDecidedWhateverTheHolderAnswers(t *testing.T) {
	n := start(t, func(c *config.Config) {
		c.LogServerIDs = "full"
		c.WriteTimeout, c.ConflictProbe = dose(time.Second, c.WriteTimeout), dose(300*time.Millisecond, c.ConflictProbe)
	})
	h := n.pair()
	rivals := dose(2, 16)
	given(t, "2 kinds of holders, %d claimants of each", rivals)
	var all sync.WaitGroup
	for name, text := range map[string]string{
		"pongs without a ping": frame(0x8a, "x"),
		"frames":               frame(0x81, `{"conn_id":"c-0123456789abcdef","frame":1}`),
	} {
		holder := n.raw("/v1/server", name[:5])
		_ = holder.SetDeadline(time.Time{})
		n.until("the holder is there", func() bool { return strings.Contains(n.log.String(), name[:5]) })
		done := make(chan struct{})
		var sends sync.WaitGroup
		sends.Go(func() {
			for {
				if _, err := io.WriteString(holder, text); err != nil {
					return
				}
				select {
				case <-done:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
		t.Cleanup(func() { close(done); sends.Wait() })
		for range rivals {
			begun := time.Now()
			rival := n.raw("/v1/server", name[:5])
			all.Go(func() {
				if got := closeCode(rival); got != 1013 {
					t.Errorf("%s: a claimant is closed with %d after %v; want 1013", name, got, time.Since(begun))
				}
				if took := time.Since(begun); took > dose(1300*time.Millisecond, 13*time.Second)+slack {
					t.Errorf("%s: a claimant waits for %v", name, took)
				}
			})
		}
	}
	all.Wait()
	h.check()
}

// A stranger that knows a server-id takes all places of claimants, again and again. The
// restarted daemon of a holder that is dead gets its slot.
func TestRow43AStrangersClaimsDoNotKeepADaemonOut(t *testing.T) {
	n := start(t, func(c *config.Config) { c.ConflictProbe = dose(time.Second, c.ConflictProbe) })
	h := n.pair()
	strangers := dose(24, 200)
	given(t, "%d claimants of one address", strangers)
	holder := n.raw("/v1/server", "owned") // answers nothing
	_ = holder.SetDeadline(time.Time{})
	n.until("the holder is there", func() bool { return n.binaries() == 2 })
	done := make(chan struct{})
	var all sync.WaitGroup
	for range strangers {
		all.Go(func() {
			every(done, 100*time.Millisecond, func() error {
				if c, err := n.tryRaw("/v1/server", "owned", "127.0.0.2"); err == nil {
					_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // then it leaves, and would not take the slot
					_, _ = io.Copy(io.Discard, c)
					c.Close()
				}
				return nil
			})
		})
	}
	const refused = `pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_capacity"}`
	n.until("all places are taken", func() bool { return n.metric(refused) > 0 })
	owner, resp, err := n.dial("/v1/server", "owned", "127.0.0.3")
	if err != nil {
		t.Fatalf("the owner: %v, %v", err, resp)
	}
	_ = owner.SetReadDeadline(time.Now().Add(dose(500*time.Millisecond, 2*time.Second)))
	if _, _, err := owner.ReadMessage(); wstest.IsClose(err, 1013) {
		t.Errorf("the owner is closed: %v", err)
	}
	close(done)
	all.Wait()
	owner.Close()
	h.check()
}

// One connection has the relay log as much as it can. What happens to a stranger is
// in the log all the same.
func TestRow42GarbageHidesNobodyInTheLog(t *testing.T) {
	c := startChild(t, func(c *config.Config) { c.ConflictProbe, c.LogServerIDs = time.Second, "full" })
	h := c.pair()
	given(t, "1 connection, %d MB/s", 4)
	end := c.flood(flood{Kind: "bad envelopes of a byte", From: "127.0.0.2", Conns: 1, MBytes: 4})
	c.until("the log is full", func() bool {
		return c.metric(`pyrycode_relay_log_records_suppressed_total{class="frame"}`) > 1000
	})
	const stranger = "127.0.0.3"
	holder, _, err := c.dial("/v1/server", "stranger", stranger)
	if err != nil {
		t.Fatal(err)
	}
	drained(holder)
	logged := func(event string) {
		t.Helper()
		c.until(event+" is logged", func() bool {
			for line := range strings.Lines(c.log.String()) {
				if strings.Contains(line, `"msg":"`+event+`"`) && strings.Contains(line, stranger) {
					return true
				}
			}
			return false
		})
	}
	logged("server_claimed")
	rival, _, err := c.dial("/v1/server", "stranger", stranger)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := rival.ReadMessage(); !wstest.IsClose(err, 4409) {
		t.Errorf("a rival of a live binary: %v; want 4409", err)
	}
	logged("server_id_conflict")
	holder.Close()
	logged("server_released")
	silent, err := c.tryRaw("/v1/server", "silent", stranger)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c.until("the silent one is there", func() bool { return c.metric("pyrycode_relay_connected_binaries") == 3 })
	heir, _, err := c.dial("/v1/server", "silent", stranger)
	if err != nil {
		t.Fatal(err)
	}
	defer heir.Close()
	logged("server_id_takeover")
	end()
	lines := 0
	for line := range strings.Lines(c.log.String()) {
		if strings.Contains(line, "envelope_dropped") {
			lines++
		}
	}
	t.Logf("%d lines for garbage", lines)
	h.check()
}
