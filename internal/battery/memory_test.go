package battery

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// attacker opens connections of one address, which never read unless told to.
type attacker struct {
	node
	from string
	all  sync.WaitGroup
	held []net.Conn
}

// memoryAttack is one of memoryAttacks, with so many connections.
type memoryAttack struct {
	Attack, Conns int    // Attack -1: one connection of each of so many addresses holds back the end of 2 MiB
	Relay, From   string // addresses; of attack -1, From has a %d
	TLS           bool
	Every         time.Duration // after which all connections are closed and it begins again; 0: never
}

func (m memoryAttack) begin() (end func()) {
	if m.Attack < 0 {
		message := frame(0x81, `"`+strings.Repeat("x", 2<<20)+`"`)
		var all []*attacker // or the collector closes their connections
		for i := range m.Conns {
			a := &attacker{node: *attackerNode(m.Relay, m.TLS), from: fmt.Sprintf(m.From, 1+i)}
			a.send(a.dial("/v1/server", fmt.Sprint("late-", i)), message[:len(message)-1])
			all = append(all, a)
		}
		return func() { runtime.KeepAlive(all) }
	}
	run := func() *attacker {
		a := &attacker{node: *attackerNode(m.Relay, m.TLS), from: m.From}
		memoryAttacks[m.Attack].run(a, m.Conns)
		return a
	}
	if m.Every == 0 {
		a := run()
		return func() { runtime.KeepAlive(a) } // or the collector closes its connections
	}
	go func() {
		for {
			a := run()
			time.Sleep(m.Every)
			for _, c := range a.held {
				c.Close()
			}
			a.all.Wait()
		}
	}()
	return func() {}
}

// attackerNode is a relay as its attackers see it.
func attackerNode(relay string, hasTLS bool) *node {
	n := &node{public: relay, peers: history.NewPeers()}
	if hasTLS {
		n.tls = &tls.Config{InsecureSkipVerify: true, ServerName: "relay.test"}
	}
	return n
}

// tcpOf returns the TCP connection that c is, or that is below it.
func tcpOf(c net.Conn) *net.TCPConn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*net.TCPConn)
}

// attack runs attack number i with so many connections, in a process of its own. end
// ends it.
func (c *child) attack(i, n int) (end func()) {
	c.t.Helper()
	stop := c.attackFromOutside(memoryAttack{Attack: i, Conns: n, Relay: c.public, From: "127.7.0.1"})
	return func() { stop() }
}

// dial upgrades a connection. Nil means that the relay refused it.
func (a *attacker) dial(path, id string) net.Conn {
	c, err := a.tryRaw(path, id, a.from)
	if err != nil {
		return nil
	}
	_ = tcpOf(c).SetReadBuffer(4 << 10)
	_ = c.SetDeadline(time.Time{})
	a.held = append(a.held, c)
	return c
}

// send writes parts to c, without waiting for it.
func (a *attacker) send(c net.Conn, parts ...string) {
	if c == nil {
		return
	}
	a.all.Go(func() {
		for _, p := range parts {
			if _, err := io.WriteString(c, p); err != nil {
				return
			}
		}
	})
}

// slowly reads from c, so little that its writes go on and its backlog stays.
func (a *attacker) slowly(c net.Conn) {
	a.all.Go(func() {
		b := make([]byte, 512)
		for {
			time.Sleep(200 * time.Millisecond)
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	})
}

// memoryAttacks is what peers may try to make the relay hold more than it has.
// Each takes so many connections.
var memoryAttacks = []struct {
	name       string
	small, big int
	run        func(a *attacker, n int)
}{
	{"claimants that wait send 4 MiB each", 48, 160, func(a *attacker, n int) {
		message := frame(0x81, `"`+strings.Repeat("x", 4<<20-2)+`"`)
		for i := range n {
			id := fmt.Sprint("claimed-", i/16)
			if i%16 == 0 {
				a.dial("/v1/server", id) // answers nothing
			}
			a.send(a.dial("/v1/server", id), message)
		}
	}},
	{"claimants that wait send 4 MiB in fragments", 48, 160, func(a *attacker, n int) {
		first, more := frame(0x01, strings.Repeat("1", 4<<10)), frame(0x00, strings.Repeat("1", 4<<10))
		for i := range n {
			id := fmt.Sprint("claimed-", i/16)
			if i%16 == 0 {
				a.dial("/v1/server", id)
			}
			a.send(a.dial("/v1/server", id), first+strings.Repeat(more, 1000))
		}
	}},
	{"phones in grace send 256 KiB and more", 480, 1920, func(a *attacker, n int) {
		message := frame(0x81, `"`+strings.Repeat("x", 256<<10-2)+`"`)
		for i := range n {
			id := fmt.Sprint("grace-", i/16)
			if i%16 == 0 {
				b := a.dial("/v1/server", id)
				if b == nil {
					continue
				}
				_, _ = b.Write([]byte(frame(0x88, "\x03\xe8")))
				closeCode(b)
			}
			a.send(a.dial("/v1/client", id), message, message)
		}
	}},
	{"phones of a binary that does not read", 240, 960, func(a *attacker, n int) {
		message := frame(0x81, `"`+strings.Repeat("x", 250<<10)+`"`)
		for i := range n {
			id := fmt.Sprint("deaf-", i/16)
			if i%16 == 0 {
				if b := a.dial("/v1/server", id); b != nil {
					a.slowly(b)
				}
			}
			a.send(a.dial("/v1/client", id), strings.Repeat(message, 8))
		}
	}},
	{"binaries hold back the last byte of 4 MiB", 48, 160, func(a *attacker, n int) {
		message := frame(0x81, `"`+strings.Repeat("x", 4<<20-2)+`"`)
		for i := range n {
			a.send(a.dial("/v1/server", fmt.Sprint("late-", i)), message[:len(message)-1])
		}
	}},
	{"binaries finish 4 MiB at one moment", 24, 70, func(a *attacker, n int) {
		// Not in the usual form: it has a field that no daemon sends.
		message := frame(0x81, `{"x":0,"conn_id":"c-0000000000000000","frame":"`+strings.Repeat("x", 4<<20-50)+`"}`)
		var bs []net.Conn
		for i := range n {
			b := a.dial("/v1/server", fmt.Sprint("moment-", i))
			a.send(b, message[:len(message)-1])
			bs = append(bs, b)
		}
		time.Sleep(time.Second)
		for range 4 {
			for _, b := range bs {
				a.send(b, message[len(message)-1:]+message[:len(message)-1])
			}
			time.Sleep(500 * time.Millisecond)
		}
	}},
	{"slow readers keep newcomers out", 32, 98, func(a *attacker, n int) {
		var bs []net.Conn
		for i := range (n + 15) / 16 {
			bs = append(bs, a.dial("/v1/server", fmt.Sprint("slow-", i)))
		}
		envelopes := make([]string, len(bs))
		for i := range n {
			b := bs[i/16]
			p := a.dial("/v1/client", fmt.Sprint("slow-", i/16))
			if b == nil || p == nil {
				continue
			}
			_, _ = io.WriteString(p, frame(0x81, "1"))
			var e struct {
				ID string `json:"conn_id"`
			}
			_ = json.Unmarshal([]byte(text(b)), &e)
			envelopes[i/16] += frame(0x81, fmt.Sprintf(`{"conn_id":%q,"frame":"%s"}`, e.ID, strings.Repeat("x", 60<<10)))
			a.slowly(p)
		}
		// Until newcomers are refused: from then on no more comes.
		a.all.Go(func() {
			for range 65 {
				for i, b := range bs {
					if b != nil {
						_, _ = io.WriteString(b, envelopes[i])
					}
				}
				if c, _, err := a.node.dial("/v1/server", "trial", a.from); err != nil {
					return
				} else {
					c.Close()
				}
			}
		})
	}},
}

// Peers that make the relay hold much pay for it with their own connections:
// resident memory stays below the limit, newcomers of other addresses are
// served, and a slow binary that holds little keeps its connection.
func TestRow37MemoryIsTakenFromTheAddressThatHoldsMost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("resident memory is read from /proc")
	}
	limit := dose(160, 460) << 20
	for i, at := range memoryAttacks {
		for _, times := range dose([]int{1}, []int{1, 2}) {
			t.Run(fmt.Sprintf("%s ×%d", at.name, times), func(t *testing.T) {
				n := dose(at.small, at.big) * times
				given(t, "%s, %d connections of one address, %d MiB", at.name, n, limit>>20)
				c := startChild(t, func(cfg *config.Config) {
					cfg.MemoryLimit = config.Size(limit)
					cfg.ConflictProbe, cfg.WriteTimeout, cfg.RoomTimeout = 15*time.Second, 2*time.Minute, 15*time.Second
				})
				h := c.pair()
				slow := c.slowBinary("127.8.0.1")
				end := func() {}
				defer func() { end() }()
				worst := c.newPairs(func() {
					end = c.attack(i, n)
					time.Sleep(dose(2*time.Second, 6*time.Second))
				})
				most := c.mostResident()
				t.Logf("refused %v, closed %v, resident at most %d MiB of %d; newcomers waited %v at most",
					c.metric(`pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_capacity"}`)+
						c.metric(`pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_capacity"}`),
					c.metric("pyrycode_relay_memory_closes_total"), most>>20, limit>>20, worst.Round(time.Millisecond))
				if most > limit && !raced {
					t.Errorf("resident memory was %d MiB; want at most %d", most>>20, limit>>20)
				}
				if worst > 2*time.Second {
					t.Errorf("newcomers waited %v; want at most 2s", worst)
				}
				if got := c.page("/debug/check"); !strings.HasPrefix(got, "ok") {
					t.Errorf("/debug/check: %s", got)
				}
				slow()
				h.check()
			})
		}
	}
}

// A binary reads slowly, and more waits for it than any attacker holds. Attackers of many
// addresses, which do not read, lose their connections before it does.
func TestRow37APeerThatReadsOutlivesAttackersThatHoldLess(t *testing.T) {
	limit, addresses := dose(160, 460)<<20, dose(60, 200)
	given(t, "%d addresses, 2 MiB for each, %d MiB", addresses, limit>>20)
	c := startChild(t, func(cfg *config.Config) {
		cfg.MemoryLimit, cfg.WriteTimeout, cfg.MessageTimeout = config.Size(limit), 2*time.Minute, 2*time.Minute
	})
	h := c.pair()
	innocent := c.busyReader("127.8.0.1", 4<<20)
	end := c.attackFromOutside(memoryAttack{Attack: -1, Conns: addresses, Relay: c.public, From: "127.7.1.%d"})
	c.until("connections are closed for want of memory", func() bool { return c.metric("pyrycode_relay_memory_closes_total") > 0 })
	time.Sleep(dose(time.Second, 5*time.Second))
	t.Logf("closed %v", c.metric("pyrycode_relay_memory_closes_total"))
	innocent()
	end()
	h.check()
}

// busyReader is a binary that reads 3 MiB a second, and has so many bytes to read, all
// the time. The function that it returns ends it, and expects that it still reads.
func (c *child) busyReader(from string, waiting int) (check func()) {
	c.t.Helper()
	b, err := c.tryRaw("/v1/server", "busy", from)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { b.Close() })
	_ = b.SetDeadline(time.Time{})
	_ = tcpOf(b).SetReadBuffer(16 << 10)
	c.until("the busy binary is there", func() bool { return c.binaries() == 2 })
	frame := frame(0x81, `"`+strings.Repeat("x", 64<<10)+`"`)
	for range 6 { // each may have 1 MiB there
		p, err := c.tryRaw("/v1/client", "busy", from)
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { p.Close() })
		_ = p.SetDeadline(time.Time{})
		go func() {
			for {
				if _, err := io.WriteString(p, frame); err != nil {
					return
				}
			}
		}()
	}
	var ended atomic.Bool
	var got atomic.Int64
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := io.ReadFull(b, buf); err != nil {
				ended.Store(true)
				return
			}
			got.Add(int64(len(buf)))
			time.Sleep(time.Second / 48)
		}
	}()
	c.until("the busy binary has read as much, and as much waits for it", func() bool {
		return got.Load() > int64(2*waiting) && c.metric(`pyrycode_relay_outbox_bytes{side="binary"}`) >= float64(waiting)
	})
	return func() {
		c.t.Helper()
		if ended.Load() {
			c.t.Error("the binary that reads is closed")
		}
		b.Close()
	}
}

// slowBinary is a binary at an address that stops reading with little to read.
// The function that it returns reads all and expects that nothing was lost.
func (c *child) slowBinary(from string) (catchUp func()) {
	c.t.Helper()
	b, _, err := c.dial("/v1/server", "innocent", from)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { b.Close() })
	_ = b.NetConn().(*net.TCPConn).SetReadBuffer(4 << 10)
	c.until("the slow binary is there", func() bool { return c.metric("pyrycode_relay_connected_binaries") == 2 })
	p, _, err := c.dial("/v1/client", "innocent", from)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { p.Close() })
	sent := 0
	c.until("something waits for the slow binary", func() bool {
		for range 50 {
			if err := p.WriteMessage(wstest.Text, fmt.Appendf(nil, `{"k":%d,"x":"%s"}`, sent, strings.Repeat("x", 1000))); err != nil {
				c.t.Fatal(err)
			}
			sent++
		}
		return c.metric(`pyrycode_relay_outbox_bytes{side="binary"}`) > 0
	})
	return func() {
		c.t.Helper()
		_ = b.SetReadDeadline(time.Now().Add(patience))
		for k := range sent {
			_, m, err := b.ReadMessage()
			if err != nil || !strings.Contains(string(m), fmt.Sprintf(`{"k":%d,`, k)) {
				c.t.Errorf("the slow binary reads %.60q, %v; want frame %d of %d", m, err, k, sent)
				return
			}
		}
	}
}

// newPairs dials pairs of new addresses while f runs, five a second. It returns
// the longest time until a frame of such a phone has come back.
func (c *child) newPairs(f func()) (worst time.Duration) {
	done := make(chan struct{})
	go func() { f(); close(done) }()
	var all sync.WaitGroup
	var mu sync.Mutex
	for i := 0; ; i++ {
		select {
		case <-done:
			all.Wait()
			return worst
		case <-time.After(200 * time.Millisecond):
		}
		all.Go(func() {
			begun := time.Now()
			c.newcomer(fmt.Sprint("new-", i), fmt.Sprintf("127.9.%d.%d", i/250, 1+i%250), begun.Add(patience))
			mu.Lock()
			defer mu.Unlock()
			worst = max(worst, time.Since(begun))
		})
	}
}

// newcomer is a new pair that exchanges one frame. It tries until then.
func (c *child) newcomer(id, from string, until time.Time) {
	for ; time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		b, _, err := c.dial("/v1/server", id, from)
		if err != nil {
			continue
		}
		echoed := echo(b)
		for ; time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
			p, _, err := c.dial("/v1/client", id, from)
			if err != nil {
				continue
			}
			_ = p.SetReadDeadline(until)
			_ = p.WriteMessage(wstest.Text, []byte("1"))
			_, m, err := p.ReadMessage()
			p.Close()
			if err == nil && string(m) == "1" {
				break
			}
		}
		b.Close()
		<-echoed
		return
	}
}

// mostResident is the most memory of c that was resident, in bytes.
func (c *child) mostResident() int {
	c.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kb, _, _ := strings.Cut(strings.TrimSpace(rest), " kB")
	n, err := strconv.Atoi(kb)
	if err != nil {
		c.t.Fatal(err)
	}
	return n << 10
}
