package battery

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// A binary that stops reading: what its phones send waits, then they do, and
// a binary that reads again in time has lost nothing.
func TestRow15ABinaryThatStopsReading(t *testing.T) {
	parallel(t)
	write := dose(2*time.Second, 10*time.Second)
	const over, less = 400, 100 // frames of 16 KiB: more than outbox and kernel hold, less than a send buffer may
	for _, tt := range []struct {
		stall  time.Duration
		lives  bool
		frames int
		tls    bool
	}{
		{dose(time.Second, 6*time.Second), true, over, false},
		{dose(time.Second, 6*time.Second), true, less, true},
		{dose(4*time.Second, 12*time.Second), false, over, false},
		{dose(0, 60*time.Second), false, over, false},
	} {
		if tt.stall == 0 {
			continue // with large doses only
		}
		t.Run(fmt.Sprintf("%v tls=%t", tt.stall, tt.tls), func(t *testing.T) {
			var cert, key string
			var client *tls.Config
			if tt.tls {
				cert, key, client = selfSigned(t)
			}
			n := start(t, func(c *config.Config) {
				c.WriteTimeout, c.RoomTimeout, c.ConflictProbe = write, write, tt.stall/2
				if tt.lives {
					c.WriteTimeout, c.RoomTimeout = tt.stall+patience, tt.stall+patience // however late the test reads again
				}
				c.BinaryOutbox = 2 << 20
				c.TLSCert, c.TLSKey = cert, key
			})
			given(t, "%v (TLS %t)", tt.stall, tt.tls)
			n.tls = client
			h := n.pair()
			b := n.slot("slow")
			below := b.NetConn()
			if tt.tls {
				below = below.(*tls.Conn).NetConn()
			}
			_ = below.(*net.TCPConn).SetReadBuffer(64 << 10)
			p := n.mustDial("/v1/client", "slow")
			n.connected(2, 2)

			pad := strings.Repeat("x", 16<<10)
			sent := make(chan int, 1)
			begun := time.Now()
			go func() {
				k := 0
				for ; k < tt.frames; k++ {
					if p.WriteMessage(wstest.Text, fmt.Appendf(nil, `{"k":%d,"x":%q}`, k, pad)) != nil {
						break
					}
				}
				sent <- k
			}()
			if tt.lives { // a rival finds it slow, not dead: its ping waits behind frames
				n.until("frames wait for the binary", func() bool {
					return n.metric(`pyrycode_relay_outbox_bytes{side="binary"}`) > 128<<10
				})
				rival := n.mustDial("/v1/server", "slow")
				refused := make(chan int, 1)
				go func() { refused <- codeOf(rival) }()
				time.Sleep(tt.stall)
				for k := range tt.frames {
					_, m, err := b.ReadMessage()
					if err != nil || !strings.Contains(string(m), fmt.Sprintf(`{"k":%d,`, k)) {
						t.Fatalf("after a pause, frame %d is %.60s, %v", k, m, err)
					}
				}
				drained(b)
				if got := <-sent; got != tt.frames {
					t.Errorf("the phone could send %d of %d frames", got, tt.frames)
				}
				if code := <-refused; code != 4409 {
					t.Errorf("the rival is closed with %d; want 4409", code)
				}
				h.check()
				return
			}
			n.until("the binary is cut", func() bool { return n.metric("pyrycode_relay_connected_binaries") == 1 })
			if took := time.Since(begun); took < write || took > write+slack {
				t.Errorf("the binary was cut after %v; want %v", took, write)
			}
			time.Sleep(max(0, tt.stall-time.Since(begun)))
			again := n.mustDial("/v1/server", "slow") // its phones are sent away, and none frozen
			drained(again)
			if code := codeOf(p); code != 4404 && code != 1000 && code != 1011 {
				t.Errorf("the phone is closed with %d; want 4404, or 1011 before it", code)
			}
			<-sent
			h.check()
		})
	}
}

// codeOf reads c to its end and returns the code of its close; 0: none.
func codeOf(c *wstest.Conn) int {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	for {
		_, _, err := c.ReadMessage()
		if e, ok := err.(*wstest.CloseError); ok {
			return e.Code
		}
		if err != nil {
			return 0
		}
	}
}

func TestRow17PhonesOfAnExpiredGraceAreAllClosedAtOnce(t *testing.T) {
	parallel(t)
	n := startChild(t, func(c *config.Config) { c.Grace, c.PhoneOutbox = 500*time.Millisecond, 4<<20 })
	h := n.pair()
	given(t, "%d graces, 3 dead phones of 16 in each", dose(1, 20))
	for range dose(1, 20) {
		b := n.slot("s")
		type ended struct {
			code int
			at   time.Time
		}
		live := make(chan ended, 16)
		var dead []net.Conn
		var ids []string
		for i := range 16 {
			if i%5 == 0 && len(dead) < 3 {
				c := n.raw("/v1/client", "s")
				_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
				dead = append(dead, c)
				_, _ = c.Write([]byte(frame(0x81, "1")))
				_, e, err := b.ReadMessage()
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, connID(t, e))
				continue
			}
			c := n.mustDial("/v1/client", "s")
			go func() { code := codeOf(c); live <- ended{code, time.Now()} }()
		}
		n.connected(2, 17)
		flood := strings.Repeat("x", 60<<10)
		for range 20 { // the kernel's buffers and more, less than their outbox
			for _, id := range ids {
				if err := b.WriteMessage(wstest.Text, fmt.Appendf(nil, `{"conn_id":%q,"frame":%q}`, id, flood)); err != nil {
					t.Fatal(err)
				}
			}
		}
		b.Close()
		var first, last time.Time
		for range 13 {
			e := <-live
			if e.code != 1000 {
				t.Errorf("closed with %d; want 1000", e.code)
			}
			if first.IsZero() {
				first = e.at
			}
			last = e.at
		}
		if spread := last.Sub(first); spread > time.Second {
			t.Errorf("between the first close and the last are %v; want all at once", spread)
		}
		n.connected(1, 1) // the dead three count no more, whatever their sockets do
		for _, c := range dead {
			c.Close()
		}
	}
	h.check()
}

// client redials as clients do: 1, 2, 4, … 30 s, ±20 %.
func (n *node) client(path, id, from string, until time.Time, back func(*wstest.Conn) bool) error {
	for wait := time.Second; time.Now().Before(until); wait = min(2*wait, 30*time.Second) {
		c, _, err := n.dial(path, id, from)
		if err == nil {
			if back(c) {
				return nil
			}
			c.Close()
		}
		time.Sleep(wait*8/10 + rand.N(wait*4/10))
	}
	return fmt.Errorf("%s of %s from %s is not back", path, id, from)
}

// herd is binaries with nine phones each that all dial at once, and how long
// it takes until each phone has had an answer.
func (n *node) herd(binaries int, from func(i int) string) time.Duration {
	n.t.Helper()
	begun := time.Now()
	until := begun.Add(60 * time.Second)
	var all sync.WaitGroup
	for i := range binaries {
		id := fmt.Sprint("herd-", i)
		all.Go(func() {
			if err := n.client("/v1/server", id, from(10*i), until, func(c *wstest.Conn) bool {
				n.t.Cleanup(func() { c.Close() })
				echo(c)
				return true
			}); err != nil {
				n.t.Error(err)
			}
		})
		for k := range 9 {
			all.Go(func() {
				if err := n.client("/v1/client", id, from(10*i+k+1), until, func(c *wstest.Conn) bool {
					n.t.Cleanup(func() { c.Close() })
					_ = c.SetReadDeadline(until)
					if c.WriteMessage(wstest.Text, []byte(`"back"`)) != nil {
						return false
					}
					_, m, err := c.ReadMessage()
					return err == nil && string(m) == `"back"`
				}); err != nil {
					n.t.Error(err)
				}
			})
		}
	}
	all.Wait()
	return time.Since(begun)
}

func TestRow24AllReconnectAtOnce(t *testing.T) {
	parallel(t)
	herd := func(t *testing.T, binaries, burst int, client *tls.Config, from func(i int) string, set func(*config.Config)) {
		c := startChild(t, func(c *config.Config) {
			d := config.Default()
			c.Rate, c.Burst, c.MaxConnsPerAddress, c.MaxPendingPerAddress = d.Rate, cmp.Or(burst, d.Burst), d.MaxConnsPerAddress, d.MaxPendingPerAddress
			c.MaxConns = 20_000
			set(c)
		})
		c.tls = client
		given(t, "%d clients", 10*binaries)
		took := c.herd(binaries, from)
		c.connected(binaries, 9*binaries)
		early := c.metric(`pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_404"}`)
		t.Logf("%d clients were back after %v; %v times a phone came before its binary", 10*binaries, took, early)
	}
	plain := func(*config.Config) {}
	many := func(i int) string { return fmt.Sprintf("127.3.%d.%d", i/100/250, 1+i/100%250) }
	t.Run("from many addresses", func(t *testing.T) { herd(t, dose(20, 1000), 0, nil, many, plain) })
	// More than may wait to be upgraded: the first clients must not be cut for the
	// last ones, or all come again and again.
	t.Run("over TLS", func(t *testing.T) {
		cert, key, client := selfSigned(t)
		herd(t, dose(15, 300), 0, client, many, func(c *config.Config) {
			c.TLSCert, c.TLSKey, c.MaxPending = cert, key, dose(50, c.MaxPending)
		})
	})
	// As many as one address may have, and as few attempts as there are clients: the
	// attempts of phones that come before their binary are not left for the others.
	t.Run("from one address", func(t *testing.T) {
		herd(t, dose(15, 99), dose(150, 0), nil, func(int) string { return "127.0.0.7" }, plain)
	})
}

func TestRow27AResetInMidFrameLeavesNoPartOfIt(t *testing.T) {
	n := start(t, nil)
	h := n.pair()
	b := n.slot("s")
	type got struct {
		text string
		err  error
	}
	came := make(chan got, 16)
	go func() {
		for {
			_, m, err := b.ReadMessage()
			came <- got{string(m), err}
			if err != nil {
				return
			}
		}
	}()
	given(t, "%d resets of phones, %d of binaries", dose(20, 1000), dose(5, 200))
	body := `{"x":"` + strings.Repeat("y", 3000) + `"}`
	whole := frame(0x81, body)
	for i := range dose(20, 1000) {
		c := n.raw("/v1/client", "s")
		cut := 1 + i*151%(len(whole)-1)
		if _, err := io.WriteString(c, whole+whole[:cut]); err != nil {
			t.Fatal(err)
		}
		// The whole one has come before the reset, which throws away what the
		// relay has not read yet.
		m := <-came
		if !strings.HasSuffix(m.text, `,"frame":`+body+`}`) {
			t.Fatalf("got %.60q, %v; want the whole frame", m.text, m.err)
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
		m = <-came
		if want := fmt.Sprintf(`{"conn_id":%q,"close_code":1001}`, connID(t, []byte(m.text))); m.text != want {
			t.Fatalf("after a reset in byte %d: %.80q; want a close notice and no part of the frame", cut, m.text)
		}
	}
	// The other way: a binary's reset in mid-envelope.
	for i := range dose(5, 200) {
		id := fmt.Sprint("r", i)
		raw := n.raw("/v1/server", id)
		n.until("it holds its slot", func() bool { return n.metric("pyrycode_relay_connected_binaries") == 3 })
		p := n.mustDial("/v1/client", id)
		_ = p.WriteMessage(wstest.Text, []byte("1"))
		envelope := text(raw)
		answer := frame(0x81, fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, connID(t, []byte(envelope)), strings.Repeat("z", 2000)))
		_, _ = io.WriteString(raw, answer+answer[:1+i*97%(len(answer)-1)])
		if _, m, err := p.ReadMessage(); err != nil || len(m) != 2002 {
			t.Fatalf("the phone gets %d bytes, %v; want the whole frame", len(m), err)
		}
		_ = raw.(*net.TCPConn).SetLinger(0)
		raw.Close()
		n.until("its slot is in grace", func() bool { return n.metric("pyrycode_relay_connected_binaries") == 2 })
		_ = p.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, m, err := p.ReadMessage(); err == nil {
			t.Fatalf("the phone gets %d bytes of an envelope that never came whole", len(m))
		}
		p.Close()
	}
	b.Close()
	for m := range came {
		if m.err != nil {
			break
		}
	}
	h.check()
}

// Killed and ended by signal, in turn, with traffic.
func TestRow22A23UnderLoad(t *testing.T) {
	var worst time.Duration
	given(t, "%d ends, ten busy pairs at each", dose(2, 40))
	for i := range dose(2, 40) {
		c := startChild(t, nil)
		var pairs []*wstest.Conn
		var phones sync.WaitGroup
		codes := make(chan int, 10)
		for k := range 10 {
			b := c.slot(fmt.Sprint("s", k))
			echo(b)
			p := c.mustDial("/v1/client", fmt.Sprint("s", k))
			pairs = append(pairs, b, p)
			phones.Go(func() {
				for n := 0; ; n++ {
					want := fmt.Sprintf(`{"n":%d}`, n)
					err := p.WriteMessage(wstest.Text, []byte(want))
					var got []byte
					if err == nil {
						_, got, err = p.ReadMessage()
					}
					if err != nil {
						e, _ := err.(*wstest.CloseError)
						if e == nil { // the close may wait behind a write that failed
							codes <- codeOf(p)
							return
						}
						codes <- e.Code
						return
					}
					if string(got) != want {
						t.Errorf("got %s; want %s", got, want)
					}
				}
			})
		}
		c.connected(10, 10)
		hard := i%2 == 0
		signal := map[bool]syscall.Signal{true: syscall.SIGKILL, false: syscall.SIGTERM}[hard]
		begun := time.Now()
		_ = c.cmd.Process.Signal(signal)
		err := c.cmd.Wait()
		phones.Wait()
		if !hard && (err != nil || time.Since(begun) > 10*time.Second+slack) {
			t.Errorf("SIGTERM under load: %v after %v; want exit 0 within 10s", err, time.Since(begun))
		}
		for range 10 {
			if code := <-codes; hard && code != 0 || !hard && code != 1001 {
				t.Errorf("%v: a phone is closed with %d", signal, code)
			}
		}
		for _, conn := range pairs {
			conn.Close()
		}
		begun = time.Now()
		again := startChild(t, func(cfg *config.Config) { cfg.Listen, cfg.MetricsListen = c.public, c.private })
		again.connected(0, 0)
		for k := range 10 {
			echo(again.slot(fmt.Sprint("s", k)))
			p := again.mustDial("/v1/client", fmt.Sprint("s", k))
			if err := p.WriteMessage(wstest.Text, []byte(`"back"`)); err != nil {
				t.Fatal(err)
			}
			if _, got, err := p.ReadMessage(); err != nil || string(got) != `"back"` {
				t.Fatalf("after %v and a restart: %s, %v", signal, got, err)
			}
		}
		worst = max(worst, time.Since(begun))
		again.connected(10, 10)
		_ = again.cmd.Process.Kill()
		_ = again.cmd.Wait()
	}
	t.Logf("ended %d times under load, half of them by kill -9: ten pairs were back after %v at most, the start of the process included", dose(2, 40), worst)
}
