package battery

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

func TestRow01IdleConnectionsAreCountedExactly(t *testing.T) {
	n := startChild(t, func(c *config.Config) { c.MaxConns = 12_000 }) // each process has its own descriptors
	binaries, each := dose(10, 910), 10
	var held []*wstest.Conn
	given(t, "%d connections", binaries*(1+each))
	before := n.metric("go_goroutines")
	for i := range binaries {
		held = append(held, n.slot(fmt.Sprint("s", i)))
		for range each {
			held = append(held, n.mustDial("/v1/client", fmt.Sprint("s", i)))
		}
	}
	n.connected(binaries, binaries*each)
	if more := n.metric("go_goroutines") - before; more > float64(len(held))+20 {
		t.Errorf("%d connections cost %v goroutines; want at most one each", len(held), more)
	}
	for _, c := range held {
		c.Close()
	}
	n.until("all are gone", func() bool { return n.metric("pyrycode_relay_connected_binaries") == 0 })
	n.connected(0, int(n.metric("pyrycode_relay_connected_phones")))
}

func TestRow02PairsUnderLoadLoseNothing(t *testing.T) {
	n := startChild(t, nil)
	h := n.pair()
	pairs, frames := dose(10, 1000), dose(20, 100)
	given(t, "%d pairs × %d frames of 1 KiB each way, ten a second", pairs, frames)
	pad := strings.Repeat("x", 1000)
	binaries, phones := make([]*wstest.Conn, pairs), make([]*wstest.Conn, pairs)
	for i := range pairs {
		binaries[i] = n.slot(fmt.Sprint("pair", i))
		phones[i] = n.mustDial("/v1/client", fmt.Sprint("pair", i))
	}
	cpu, begun := n.metric("process_cpu_seconds_total"), time.Now()
	var all sync.WaitGroup
	for i := range pairs {
		id, b, p := fmt.Sprint("pair", i), binaries[i], phones[i]
		echoed := echo(b)
		_ = p.SetReadDeadline(time.Now().Add(patience + 30*time.Second))
		all.Go(func() {
			time.Sleep(time.Duration(i) * 100 * time.Millisecond / time.Duration(pairs)) // not all in one beat
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for k := range frames {
				<-tick.C
				if err := p.WriteMessage(wstest.Text, fmt.Appendf(nil, `{"k":%d,"of":%q,"x":%q}`, k, id, pad)); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for k := range frames {
				_, got, err := p.ReadMessage()
				if want := fmt.Sprintf(`{"k":%d,"of":%q,"x":%q}`, k, id, pad); err != nil || string(got) != want {
					t.Errorf("%s: got %.60s, %v; want frame %d", id, got, err, k)
					break
				}
			}
			p.Close()
			b.Close()
			<-echoed
		})
	}
	all.Wait()
	// The relay's own part in what the pair notices: from a frame's arrival
	// to the end of its write. The rest is the generator's.
	t.Logf("%d pairs: the relay used %.2f processors; 99 of 100 frames were through it within %s (to the binary) and %s (to the phone)", pairs,
		(n.metric("process_cpu_seconds_total")-cpu)/time.Since(begun).Seconds(), n.forwarded("phone_to_binary", .99), n.forwarded("binary_to_phone", .99))
	h.check()
}

// forwarded is within how long a share q of all frames was through the relay,
// by the bounds of its histogram, in seconds.
func (n *node) forwarded(direction string, q float64) string {
	n.t.Helper()
	series := "pyrycode_relay_forward_duration_seconds"
	all := n.metric(fmt.Sprintf("%s_count{direction=%q}", series, direction))
	for line := range strings.Lines(n.page("/metrics")) {
		rest, ok := strings.CutPrefix(line, fmt.Sprintf("%s_bucket{direction=%q,le=", series, direction))
		if !ok {
			continue
		}
		bound, count, _ := strings.Cut(strings.TrimSpace(rest), "} ")
		if c, err := strconv.ParseFloat(count, 64); err == nil && c >= q*all {
			return strings.Trim(bound, `"`)
		}
	}
	return "?"
}

func TestRow14PhonesThatStopReadingAreClosedAlone(t *testing.T) {
	parallel(t)
	n := start(t, func(c *config.Config) { c.PhoneOutbox, c.BinaryMessage, c.WriteTimeout = 256<<10, 128<<10, time.Second })
	h := n.pair()
	given(t, "%d phones that stop reading", dose(3, 15))
	b := n.slot("s")
	var stalled []net.Conn
	var ids []string
	for range dose(3, 15) {
		c := n.raw("/v1/client", "s")
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		stalled = append(stalled, c)
		_, _ = c.Write([]byte(frame(0x81, "1")))
		_, e, err := b.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, connID(t, e))
	}
	drained(b)
	flood := strings.Repeat("x", 100<<10)
	n.until("all of them are closed", func() bool {
		for _, id := range ids {
			if err := b.WriteMessage(wstest.Text, fmt.Appendf(nil, `{"conn_id":%q,"frame":%q}`, id, flood)); err != nil {
				t.Fatal(err)
			}
		}
		return n.metric("pyrycode_relay_connected_phones") == 1
	})
	for _, c := range stalled {
		c.Close()
	}
	if n.metric("pyrycode_relay_connected_binaries") != 2 {
		t.Error("the binary was closed with its phones")
	}
	h.check()
}

func TestRow18GarbageOfABinaryIsDroppedAndItsLogBounded(t *testing.T) {
	n := start(t, nil)
	h := n.pair()
	count, conns := dose(2000, 100_000), dose(1, 12) // no connection sends so many that it is closed
	given(t, "%d bad envelopes, one of 900 KiB", count+1)
	var garbage []*wstest.Conn
	for i := range conns {
		garbage = append(garbage, n.slot(fmt.Sprint("s", i)))
		drained(garbage[i])
	}
	begun := time.Now()
	bad := []string{`nonsense`, `{}`, `{"conn_id":"c-0000000000000000","frame":1}`, `[1]`, `{"conn_id":7,"frame":1}`, `{"conn_id":"x"}`}
	for i := range count {
		if err := garbage[i%conns].WriteMessage(wstest.Text, []byte(bad[i%len(bad)])); err != nil {
			t.Fatal(err)
		}
	}
	long := `{"conn_id":"` + strings.Repeat("canary", 900<<10/6) + `","frame":1}`
	if err := garbage[0].WriteMessage(wstest.Text, []byte(long)); err != nil {
		t.Fatal(err)
	}
	n.until("all are counted", func() bool {
		return n.metric(`pyrycode_relay_dropped_frames_total{reason="bad_envelope"}`)+
			n.metric(`pyrycode_relay_dropped_frames_total{reason="unknown_phone"}`) >= float64(count+1)
	})
	lines := strings.Count(n.log.String(), `"msg":"envelope_dropped"`)
	if most := 100 * (2 + int(time.Since(begun)/time.Second)); lines > most || lines == 0 {
		t.Errorf("%d lines for %d bad envelopes; want at most %d", lines, count, most)
	}
	if strings.Contains(n.log.String(), "canary") {
		t.Error("a conn-id that a binary made up is in the log")
	}
	h.check()
}

// A binary that loses is refused behind the upgrade, with 4409 or, if too many wait,
// 1013; or before it, if too many wait already.
func TestRow19RivalsForOneIDHaveOneWinner(t *testing.T) {
	n := start(t, nil)
	h := n.pair()
	rivals, rounds := dose(16, 64), dose(3, 10_000)
	given(t, "%d rivals × %d rounds", rivals, rounds)
	for round := range rounds {
		id := fmt.Sprint("fought-over-", round)
		conns, codes := make(chan *wstest.Conn, rivals), make(chan int, rivals)
		for i := range rivals {
			go func() {
				c, resp, err := n.dial("/v1/server", id, fmt.Sprint("127.5.0.", 1+i))
				switch {
				case err == nil:
					conns <- c
					code := codeOf(c)
					c.Close()
					codes <- code
				case resp != nil:
					codes <- resp.StatusCode
				default:
					t.Error(err)
					codes <- 0
				}
			}()
		}
		for range rivals - 1 {
			if code := <-codes; code != 4409 && code != 1013 && code != 503 {
				t.Fatalf("round %d: a loser gets %d; want 4409, 1013 or 503", round, code)
			}
		}
		if got := n.binaries(); got != 2 {
			t.Fatalf("round %d: %d binaries; want the healthy one and the winner", round, got)
		}
		for len(conns) > 0 {
			c := <-conns
			_ = c.WriteClose(1000, "")
		}
		if code := <-codes; code != 1000 { // the winner's: it has ended when it is answered
			t.Fatalf("round %d: the winner is closed with %d; want 1000", round, code)
		}
		if got := n.binaries(); got != 1 {
			t.Fatalf("round %d: %d binaries once the winner is gone; want the healthy one", round, got)
		}
	}
	h.check()
}

func TestRow28ACanaryIsInNoLogMetricOrPage(t *testing.T) {
	n := start(t, func(c *config.Config) { c.LogLevel = "debug" })
	const canary = "canary7secret"
	head := header("s")
	head.Set("X-Pyrycode-Token", canary)
	head.Set("User-Agent", canary)
	head.Set("Authorization", "Bearer "+canary)
	head.Set("Cookie", canary)
	b, _, err := wstest.Dial("ws://"+n.public+"/v1/server?token="+canary, head)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	n.connected(1, 0)
	p, _, err := wstest.Dial("ws://"+n.public+"/v1/client?token="+canary, head)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	_ = p.WriteMessage(wstest.Text, []byte(`{"data":"`+canary+`"}`))
	if _, got, err := b.ReadMessage(); err != nil || strings.Count(string(got), canary) != 1 {
		t.Fatalf("the frame came as %s, %v", got, err)
	}
	for _, bad := range []string{`{"push_wake":{"platform":"fcm","token":"` + canary + `"}}`, `{"conn_id":"` + canary + `","frame":1}`, canary} {
		_ = b.WriteMessage(wstest.Text, []byte(bad))
	}
	_ = p.WriteClose(4000, canary)
	if _, _, err := p.ReadMessage(); !wstest.IsClose(err, 4000) || strings.Contains(err.Error(), canary) {
		t.Errorf("the close is answered with %v; want its code without its reason", err)
	}
	n.connected(1, 0)
	q, _, err := wstest.Dial("ws://"+n.public+"/v1/client?token="+canary, head)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	_ = q.WriteMessage(wstest.Text, []byte(canary)) // is no JSON
	if _, _, err := q.ReadMessage(); !wstest.IsClose(err, 1007) || strings.Contains(err.Error(), canary) {
		t.Errorf("a bad frame is answered with %v; want 1007 and no part of it", err)
	}
	n.send("GET /"+canary+" HTTP/1.1\r\nHost: "+canary+"\r\nConnection: close\r\n\r\n", 0)
	n.send(canary+"\r\n\r\n", 0)
	n.until("the bad ones are counted", func() bool {
		return n.metric(`pyrycode_relay_dropped_frames_total{reason="bad_envelope"}`) >= 1
	})
	for _, path := range []string{"/", "/metrics", "/healthz", "/readyz", "/debug/check", "/status.json", "/debug/config",
		"/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/allocs?debug=1", "/debug/pprof/cmdline", "/debug/pprof/mutex?debug=1"} {
		if strings.Contains(n.page(path), canary) {
			t.Errorf("the canary is on %s", path)
		}
	}
	if i := strings.Index(n.log.String(), canary); i >= 0 {
		t.Errorf("the canary is in the log: …%s", n.log.String()[max(0, i-200):i+20])
	}
}
