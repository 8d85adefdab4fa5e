package battery

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// nuisances are the attacks of one address that need few connections: wakes that
// no peer wants, phones that join again for a fresh quota, a holder that answers no probe
// and claimants that wait for it, and pages of other sites at the private listener.
type nuisances struct {
	Relay, Private, From string // addresses
	TLS                  bool
	Wakes                int // server-ids that ask for wakes
}

func (a nuisances) begin() (end func()) {
	n := attackerNode(a.Relay, a.TLS)
	again := func(f func(dial func(path, id string) net.Conn)) {
		go func() {
			for {
				var all []net.Conn
				f(func(path, id string) net.Conn {
					c, err := n.tryRaw(path, id, a.From)
					if err != nil {
						return nil
					}
					_ = c.SetDeadline(time.Time{})
					all = append(all, c)
					return c
				})
				for _, c := range all {
					c.Close()
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
	}
	for i := range a.Wakes {
		again(func(dial func(path, id string) net.Conn) {
			if b := dial("/v1/server", fmt.Sprint("wake-", i)); b != nil {
				go io.Copy(io.Discard, b)
				every(nil, 100*time.Millisecond, func() error {
					_, err := io.WriteString(b, frame(0x81, `{"push_wake":{"platform":"fcm","token":"x"}}`))
					return err
				})
			}
		})
	}
	again(func(dial func(path, id string) net.Conn) {
		if b := dial("/v1/server", "flooded"); b != nil {
			_, _ = io.Copy(io.Discard, &throttled{Conn: b, pause: 5 * time.Millisecond})
		}
	})
	share := strings.Repeat(frame(0x81, `"`+strings.Repeat("x", 60<<10)+`"`), 15) + frame(0x88, "\x03\xe8")
	for range 2 {
		again(func(dial func(path, id string) net.Conn) {
			if p := dial("/v1/client", "flooded"); p != nil {
				_ = p.SetDeadline(time.Now().Add(200 * time.Millisecond))
				_, _ = io.WriteString(p, share)
				_, _ = io.Copy(io.Discard, p)
			}
		})
	}
	again(func(dial func(path, id string) net.Conn) {
		if b := dial("/v1/server", "mute"); b != nil {
			every(nil, 100*time.Millisecond, func() error { _, err := io.WriteString(b, frame(0x8a, "x")); return err })
		}
	})
	for range 20 {
		again(func(dial func(path, id string) net.Conn) {
			if b := dial("/v1/server", "mute"); b != nil {
				_, _ = io.Copy(io.Discard, b)
			}
		})
	}
	again(func(func(path, id string) net.Conn) {
		for _, path := range operatorPages {
			if req, err := http.NewRequest("POST", "http://"+a.Private+path, nil); err == nil {
				req.Host = "evil.example"
				if resp, err := operator.Do(req); err == nil {
					resp.Body.Close()
				}
			}
		}
	})
	return func() {}
}

// throttled reads at most 512 bytes, and waits before each read.
type throttled struct {
	net.Conn
	pause time.Duration
}

func (c *throttled) Read(p []byte) (int, error) {
	time.Sleep(c.pause)
	return c.Conn.Read(p[:min(len(p), 512)])
}

// slowPeer is a binary that reads about 12 KB a second and always has 64 KB to
// read. end ends it, and reports a frame that is lost, or a close.
func (n *node) slowPeer(from string) (end func()) {
	n.t.Helper()
	c, err := n.tryRaw("/v1/server", "innocent", from)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Time{})
	_ = tcpOf(c).SetReadBuffer(4 << 10)
	n.until("the slow binary is there", func() bool { return n.binaries() >= 2 })
	p, _, err := n.dial("/v1/client", "innocent", from)
	if err != nil {
		n.t.Fatal(err)
	}
	drained(p)
	var sent, got atomic.Int64
	var failure atomic.Pointer[error]
	done, ended := make(chan struct{}), make(chan struct{}, 2)
	fail := func(err error) {
		select {
		case <-done:
		default:
			failure.CompareAndSwap(nil, &err)
		}
	}
	pad := strings.Repeat("x", 1000)
	go func() {
		defer func() { ended <- struct{}{} }()
		every(done, 10*time.Millisecond, func() error {
			for sent.Load()-got.Load() < 64 {
				if err := p.WriteMessage(wstest.Text, fmt.Appendf(nil, `{"k":%d,"x":%q}`, sent.Add(1)-1, pad)); err != nil {
					fail(fmt.Errorf("its phone cannot send: %w", err))
					return err
				}
			}
			return nil
		})
	}()
	go func() {
		defer func() { ended <- struct{}{} }()
		slow := &throttled{Conn: c, pause: 20 * time.Millisecond}
		for {
			f, err := wstest.ReadFrame(slow)
			switch want := fmt.Sprintf(`"frame":{"k":%d,`, got.Load()); {
			case err != nil:
				fail(fmt.Errorf("after %d frames: %w", got.Load(), err))
				return
			case f.Op == wstest.Ping:
				_, _ = io.WriteString(c, frame(0x8a, string(f.Payload)))
			case f.Op != wstest.Text || !strings.Contains(string(f.Payload), want):
				fail(fmt.Errorf("it reads %.80q; want %s", f.Payload, want))
				return
			default:
				got.Add(1)
			}
		}
	}()
	return func() {
		n.t.Helper()
		close(done)
		c.Close()
		p.Close()
		<-ended
		<-ended
		if err := failure.Load(); err != nil {
			n.t.Errorf("the slow binary: %v", *err)
		}
		n.t.Logf("the slow binary read %d of %d frames", got.Load(), sent.Load())
	}
}

// All attacks of the rows 36 to 47 at the same time, each from addresses of its own,
// with the default limits of an address. No peer of another address notices one of them.
func TestRow48AllAttacksAtTheSameTime(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("resident memory is read from /proc")
	}
	limit, long := dose(256, 460)<<20, dose(8*time.Second, 10*time.Minute)
	cert, key, client := selfSigned(t)
	credentials, endpoint := slowFCM(t)
	c := startChild(t, func(cfg *config.Config) {
		usual := config.Default()
		cfg.Rate, cfg.Burst, cfg.MaxConnsPerAddress, cfg.MaxPendingPerAddress = usual.Rate, usual.Burst, usual.MaxConnsPerAddress, usual.MaxPendingPerAddress
		cfg.TLSCert, cfg.TLSKey, cfg.MemoryLimit = cert, key, config.Size(limit)
		cfg.FCMCredentials, cfg.FCMEndpoint, cfg.LogServerIDs = credentials, endpoint, "full"
	})
	c.tls = client
	h := c.pair()
	// What the machine adds: the peers and the attackers compute on the same processors.
	spared := startChild(t, func(cfg *config.Config) { cfg.TLSCert, cfg.TLSKey = cert, key })
	spared.tls = client
	control := spared.pair()
	slow := c.slowPeer("127.8.0.1")
	sieges := siege{Relay: c.public, Addresses: dose(4, 16), Per: dose(14, 128), TLS: true}
	floods := flood{Relay: c.public, From: "127.0.0.2", Conns: dose(18, 200), MBytes: dose(10, 40), TLS: true}
	others := nuisances{Relay: c.public, Private: c.private, From: "127.0.0.4", TLS: true, Wakes: dose(20, 200)}
	all := []attack{sieges, floods, others}
	conns := 0
	for i, at := range memoryAttacks {
		m := memoryAttack{Attack: i, Conns: dose(at.small/4, at.big/2), Relay: c.public, From: fmt.Sprint("127.7.0.", 1+i), TLS: true, Every: dose(4*time.Second, 20*time.Second)}
		conns += m.Conns
		all = append(all, m)
	}
	given(t, "for %v: %d addresses × %d connections without an upgrade; %d floods; %d ids that ask for wakes, and others; %d connections in %d ways to use memory, %d MiB",
		long, sieges.Addresses, sieges.Per, floods.Conns, others.Wakes, conns, len(memoryAttacks), limit>>20)
	var ends []func() string
	begun := time.Now()
	worst := c.newPairs(func() {
		for _, a := range all {
			ends = append(ends, c.attackFromOutside(a))
		}
		time.Sleep(long)
	})
	used := c.metric("process_cpu_seconds_total") / time.Since(begun).Seconds()
	wakes := c.wakesOfAStranger(dose(2, 6))
	for _, end := range ends {
		end()
	}
	most := c.mostResident()
	t.Logf("relay used %.2f processors, resident at most %d MiB of %d, closed %v for want of memory; newcomers waited %v at most",
		used, most>>20, limit>>20, c.metric("pyrycode_relay_memory_closes_total"), worst.Round(time.Millisecond))
	if most > limit && !raced {
		t.Errorf("resident memory was %d MiB; want at most %d", most>>20, limit>>20)
	}
	if most := newcomerWait(); worst > most {
		t.Errorf("newcomers waited %v; want at most %v", worst, most)
	}
	if missing := wakes(); missing > 0 {
		t.Errorf("%d wakes of a stranger are not sent", missing)
	}
	if c.logged(`"server_claimed"`, `"wake-stranger"`) == 0 {
		t.Error("the claim of a stranger is not in the log")
	}
	if got := c.page("/debug/check"); !strings.HasPrefix(got, "ok") {
		t.Errorf("/debug/check: %s", got)
	}
	slow()
	p50, p99 := control.end()
	t.Logf("the pair of a relay that is not attacked, at the same time: p50 %v, p99 %v", p50, p99)
	h.check()
}

// wakesOfAStranger asks for so many wakes, one every 2 s. The function that it returns
// waits for them, and returns how many are missing.
func (c *child) wakesOfAStranger(wakes int) (missing func() int) {
	c.t.Helper()
	b, _, err := c.dial("/v1/server", "wake-stranger", "127.8.0.2")
	if err != nil {
		c.t.Fatal(err)
	}
	drained(b)
	for range wakes {
		_ = b.WriteMessage(wstest.Text, []byte(`{"push_wake":{"platform":"fcm","token":"x"}}`))
		time.Sleep(dose(300*time.Millisecond, 2*time.Second))
	}
	return func() int {
		defer b.Close()
		got := 0
		for end := time.Now().Add(patience); got < wakes && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			got = c.logged(`"push_wake_sent"`, `"wake-stranger"`)
		}
		return wakes - got
	}
}
