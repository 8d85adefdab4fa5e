package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// knownKeys is every key a record of this package may have (wire contract
// §15; binary_conn_id, from, to and those of push wakes are others' to use).
var knownKeys = []string{
	"server_id", "conn_id", "device_name", "remote", "binary_version", "close_code", "err", "path", "duration", "class", "count",
}

// knownEvents is every event, with its level and its keys in their order;
// err may be missing.
var knownEvents = map[string]string{
	"server_claimed":                 "INFO server_id remote binary_version",
	"server_id_conflict":             "WARN server_id remote",
	"server_id_takeover":             "WARN server_id remote",
	"server_released":                "INFO close_code err server_id remote duration",
	"server_grace_expired":           "INFO server_id",
	"phone_carried":                  "INFO server_id remote device_name",
	"phone_registered":               "INFO server_id conn_id remote device_name",
	"phone_register_no_server":       "INFO server_id remote device_name",
	"phone_register_at_cap":          "INFO server_id remote device_name",
	"phone_unregistered":             "INFO close_code err server_id conn_id remote duration",
	"heartbeat_timeout":              "INFO server_id conn_id remote",
	"phone_close_notice_send_failed": "WARN server_id conn_id err",
	"rate_limited":                   "WARN remote path",
	"conn_cap_reached":               "WARN remote path err",
	"memory_short":                   "WARN remote err",
	"access_refused":                 "WARN server_id remote path err",
	"envelope_dropped":               "WARN server_id err",
	"envelope_for_departed_phone":    "DEBUG server_id",
	"log_records_suppressed":         "WARN class count",
}

// noCounters are counters that the test does not read, one for each class of event.
func noCounters() (cs [eventClasses]prometheus.Counter) {
	for i := range cs {
		cs[i] = prometheus.NewCounter(prometheus.CounterOpts{})
	}
	return cs
}

// recorder keeps records.
type recorder struct {
	mu      sync.Mutex
	records []slog.Record
	text    bytes.Buffer // the same as lines
	lines   slog.Handler
}

func newRecorder() *recorder {
	r := new(recorder)
	r.lines = slog.NewTextHandler(&r.text, &slog.HandlerOptions{Level: slog.LevelDebug})
	return r
}

func (r *recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler       { panic("no attributes are added") }
func (r *recorder) WithGroup(string) slog.Handler            { panic("no groups are made") }
func (r *recorder) Handle(ctx context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, rec.Clone())
	return r.lines.Handle(ctx, rec)
}

func (r *recorder) count(event string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.records {
		if rec.Message == event {
			n++
		}
	}
	return n
}

// wantKnown fails the test for each record that is not as listed.
func (r *recorder) wantKnown(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.records {
		form, ok := knownEvents[rec.Message]
		if !ok {
			t.Errorf("event %s is not on the list", rec.Message)
			continue
		}
		want := strings.Fields(form)
		got := []string{rec.Level.String()}
		rec.Attrs(func(a slog.Attr) bool {
			if !slices.Contains(knownKeys, a.Key) {
				t.Errorf("%s has the key %s; it is not on the list", rec.Message, a.Key)
			}
			if len(a.Value.String()) > logText {
				t.Errorf("%s: %s is %d bytes; want at most %d", rec.Message, a.Key, len(a.Value.String()), logText)
			}
			got = append(got, a.Key)
			return true
		})
		without := func(keys []string, no ...string) []string {
			return slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return slices.Contains(no, k) })
		}
		optional := []string{"err"}
		if rec.Message == "heartbeat_timeout" {
			optional = []string{"conn_id"} // a binary has none
		}
		if !slices.Equal(got, want) && !slices.Equal(got, without(want, optional...)) {
			t.Errorf("%s is %q; want %q", rec.Message, got, want)
		}
	}
}

// Every event there is, driven by hand.
func TestTheEventsAreAClosedSet(t *testing.T) {
	rec, clk := newRecorder(), newStillClock()
	e := newEvents(slog.New(rec), Runtime{Clock: clk}.WithDefaults(), noCounters())
	from := netip.MustParseAddr("192.0.2.1")
	b := &binary{server: "s1", version: "1.2.3", began: clk.Now()}
	b.from = from
	p := &phone{server: "s1", id: "c-0123456789abcdef", began: clk.Now()}
	p.from = from
	clk.advance(90 * time.Second)

	e.serverClaimed(b)
	e.serverConflict(b)
	e.serverTakeover(b)
	e.serverReleased(b, wire.CloseNormal, "")
	e.serverReleased(b, wire.CloseInternal, wire.ReasonHeartbeat)
	e.graceExpired("s1")
	e.phoneRegistered(p, "Pixel")
	e.phoneUnregistered(p, wire.CloseNone, "")
	p.left.Store(true)
	e.phoneUnregistered(p, wire.CloseNone, "")
	e.phoneCarried(wire.PhoneHello{Server: "s1", Device: "Pixel"}, from)
	e.phoneRefused(p, "phone_register_no_server", "")
	e.phoneRefused(p, "phone_register_at_cap", "")
	e.phoneUnregistered(p, wire.CloseNoServer, wire.ReasonReclaimed)
	e.phoneUnregistered(p, wire.CloseInternal, wire.ReasonHeartbeat)
	e.noticeFailed(p, "binary backlog full")
	e.refused("rate_limited", from, endpointPhone, nil)
	e.refused("conn_cap_reached", from, endpointBinary, errFull)
	e.accessRefused(&attempt{server: "s1", from: from, endpoint: endpointBinary}, errors.New("no"))
	e.shed(3, from)
	e.envelopeDropped(b, "no phone with that conn_id")
	e.envelopeDeparted(b)
	for range 2 * logRate {
		e.graceExpired("s1")
	}
	clk.advance(suppressedEvery)

	rec.wantKnown(t)
	for event := range knownEvents {
		if rec.count(event) == 0 {
			t.Errorf("event %s was not seen; it may be gone", event)
		}
	}
	for _, want := range []string{
		"msg=server_claimed server_id=s1 remote=192.0.2.1 binary_version=1.2.3\n",
		"msg=server_released close_code=1000 server_id=s1 remote=192.0.2.1 duration=1m30s\n",
		"msg=phone_unregistered close_code=4404 err=\"binary reclaimed server-id\" server_id=s1 conn_id=c-0123456789abcdef remote=192.0.2.1 duration=1m30s\n",
		"msg=phone_unregistered close_code=1006 server_id=s1 conn_id=c-0123456789abcdef remote=192.0.2.1 duration=1m30s\n", // no close frame
		"msg=phone_unregistered close_code=1005 server_id=s1 conn_id=c-0123456789abcdef remote=192.0.2.1 duration=1m30s\n", // one without a code
		"msg=rate_limited remote=192.0.2.1 path=client\n",
	} {
		if !strings.Contains(rec.text.String(), want) {
			t.Errorf("the log has no %q", want)
		}
	}
}

// What the source can write is no more than what is listed, driven or not.
func TestTheSourceLogsNothingElse(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	keys, events := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range tree.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			if path == "log" || path == "log/slog" && f.Name() != "events.go" && f.Name() != "config.go" {
				t.Errorf("%s imports %s; only events.go writes the log", f.Name(), path)
			}
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			text := func(i int) (string, bool) {
				if i >= len(call.Args) {
					return "", false
				}
				lit, ok := call.Args[i].(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return "", false
				}
				s, _ := strconv.Unquote(lit.Value)
				return s, true
			}
			pkg, _ := sel.X.(*ast.Ident)
			switch {
			case pkg != nil && pkg.Name == "slog" && slices.Contains([]string{"String", "Int", "Int64", "Uint64", "Bool", "Duration", "Time", "Any", "Float64", "Group"}, sel.Sel.Name):
				k, ok := text(0)
				if !ok {
					t.Errorf("%s: a key that is not written out", f.Name())
				}
				keys[k] = true
			case sel.Sel.Name == "emit":
				if s, ok := text(3); ok {
					events[s] = true
				}
			case sel.Sel.Name == "refused":
				if s, ok := text(0); ok {
					events[s] = true
				}
			case sel.Sel.Name == "phoneRefused":
				if s, ok := text(1); ok {
					events[s] = true
				}
			case f.Name() == "events.go" && slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, sel.Sel.Name) && len(call.Args) > 0:
				s, _ := text(0)
				events[s] = true
				for i := 1; i < len(call.Args); i += 2 {
					k, ok := text(i)
					if !ok {
						t.Errorf("%s: a key that is not written out", f.Name())
					}
					keys[k] = true
				}
			}
			return true
		})
	}
	for k := range keys {
		if !slices.Contains(knownKeys, k) {
			t.Errorf("the source has the key %q; it is not on the list", k)
		}
	}
	for e := range events {
		if _, ok := knownEvents[e]; !ok {
			t.Errorf("the source has the event %q; it is not on the list", e)
		}
	}
	if len(keys) != len(knownKeys) || len(events) != len(knownEvents) {
		t.Errorf("found %d keys and %d events in the source; want %d and %d", len(keys), len(events), len(knownKeys), len(knownEvents))
	}
}

func TestPeersCannotFillTheLog(t *testing.T) {
	rec, clk := newRecorder(), newStillClock()
	suppressed := noCounters()
	e := newEvents(slog.New(rec), Runtime{Clock: clk}.WithDefaults(), suppressed)
	flood := func(n int) {
		for range n {
			e.graceExpired("s1")
		}
	}
	want := func(when string, records, reports int, counted float64) {
		t.Helper()
		if got := rec.count("server_grace_expired"); got != records {
			t.Errorf("%s: %d records; want %d", when, got, records)
		}
		if got := rec.count("log_records_suppressed"); got != reports {
			t.Errorf("%s: %d reports of what was suppressed; want %d", when, got, reports)
		}
		if got := valueOf(t, suppressed[eventConnection]); got != counted {
			t.Errorf("%s: the counter is at %v; want %v", when, got, counted)
		}
	}
	const first, then = logPool, logPool / 3 // of what no address is known for, in a second
	flood(5000)
	want("5000 at once", first, 0, 5000-first)
	clk.advance(time.Second)
	flood(5000)
	left := float64(5000 - first + 5000 - then)
	want("a second later", first+then, 0, left)
	clk.advance(suppressedEvery - time.Second - time.Millisecond)
	want("just before the time", first+then, 0, left)
	clk.advance(time.Millisecond)
	want("after the time", first+then, 1, left)
	if want := fmt.Sprintf("msg=log_records_suppressed class=connection count=%v\n", left); !strings.Contains(rec.text.String(), want) {
		t.Errorf("the log has no %q", want)
	}
	clk.advance(time.Hour)
	flood(1)
	want("with nothing more suppressed", first+then+1, 1, left)
	e.flush()
	want("at an end with nothing to report", first+then+1, 1, left)
	flood(2 * first)
	e.flush()
	want("at an end with something to report", 2*first+then, 2, left+first+1)
	clk.advance(time.Hour)
	want("after the end", 2*first+then, 2, left+first+1)
	if n := clk.armed(); n != 0 {
		t.Errorf("%d timers are armed; want none", n)
	}
}

// A flood goes on for a minute: at most one line in ten seconds says what is
// left out, and the numbers add up.
func TestWhatIsSuppressedIsReportedSeldomAndInFull(t *testing.T) {
	rec, clk := newRecorder(), newStillClock()
	e := newEvents(slog.New(rec), Runtime{Clock: clk}.WithDefaults(), noCounters())
	const sent = 600 * 100
	for range 600 {
		for range 100 {
			e.graceExpired("s1")
		}
		clk.advance(100 * time.Millisecond)
	}
	clk.advance(suppressedEvery)
	told, reports := 0, 0
	for _, r := range rec.records {
		if r.Message == "log_records_suppressed" {
			reports++
			r.Attrs(func(a slog.Attr) bool {
				if a.Key == "count" {
					told += int(a.Value.Int64())
				}
				return true
			})
		}
	}
	if reports < 5 || reports > 7 {
		t.Errorf("%d reports in 70 s; want one in %v", reports, suppressedEvery)
	}
	if got := rec.count("server_grace_expired"); got+told != sent {
		t.Errorf("%d records and %d reported as left out; want %d together", got, told, sent)
	}
}

// However one address, or half a dozen, fill the log, with whichever events, a
// stranger's first claim, conflict, takeover, refusal and end in a second are there.
func TestNobodyCanHideAStrangersEvents(t *testing.T) {
	at := func(format string, i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, i)) }
	for name, addresses := range map[string][]netip.Addr{
		"one address":           {at("192.0.2.%d", 1)},
		"seven addresses":       {at("192.0.2.%d", 1), at("192.0.2.%d", 2), at("192.0.2.%d", 3), at("192.0.2.%d", 4), at("192.0.2.%d", 5), at("192.0.2.%d", 6), at("192.0.2.%d", 7)},
		"one network of a home": {at("2001:db8:0:%x::1", 1), at("2001:db8:0:%x::1", 2), at("2001:db8:0:%x::1", 0x300), at("2001:db8:0:%x::1", 0x4000)},
	} {
		t.Run(name, func(t *testing.T) {
			rec, clk := newRecorder(), newStillClock()
			e := newEvents(slog.New(rec), Runtime{Clock: clk}.WithDefaults(), noCounters())
			someone := func(from netip.Addr, id wire.ServerID) {
				b := &binary{server: id, began: clk.Now()}
				b.from = from
				p := &phone{server: id}
				p.from = from
				e.envelopeDropped(b, "no phone with that conn_id")
				e.serverClaimed(b)
				e.serverConflict(b)
				e.refused("rate_limited", from, endpointPhone, nil)
				e.serverReleased(b, wire.CloseNormal, "")
				e.phoneRegistered(p, "Pixel")
				e.graceExpired(id)
			}
			for second := range 5 {
				for i := range 3000 {
					someone(addresses[i%len(addresses)], "theirs")
				}
				before := len(rec.records)
				someone(netip.MustParseAddr("198.51.100.1"), "stranger")
				if got := len(rec.records); before > logRate*5 || got-before < 5 {
					t.Fatalf("%d records, and %d of a stranger's events; want at most %d, and one of each of 5 classes", before, got-before, logRate*5)
				}
				if len(addresses) == 1 && second > 1 {
					before := rec.count("server_claimed")
					for range 10 {
						e.serverClaimed(&binary{server: "stranger", conn: conn{from: netip.MustParseAddr("198.51.100.1")}})
					}
					if got := rec.count("server_claimed") - before; got != 10 {
						t.Fatalf("%d of a stranger's 10 claims in a second; want all", got)
					}
				}
				clk.advance(time.Second)
			}
			rec.wantKnown(t)
		})
	}
}

// Ten addresses have events of each class in each second, more than the reserve. An
// address that had none in the last minute still has its first ones in the log.
func TestTenAddressesCannotHideANewOne(t *testing.T) {
	rec, clk := newRecorder(), newStillClock()
	e := newEvents(slog.New(rec), Runtime{Clock: clk}.WithDefaults(), noCounters())
	conflict := func(from netip.Addr, id wire.ServerID) {
		b := &binary{server: id, began: clk.Now()}
		b.from = from
		e.envelopeDropped(b, "no phone with that conn_id")
		e.serverConflict(b)
	}
	for second := range 200 {
		for i := range 300 {
			conflict(netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 10)}), "theirs")
		}
		before := rec.count("server_id_conflict")
		conflict(netip.AddrFrom4([4]byte{198, 51, 100, byte(second)}), "stranger")
		if got := rec.count("server_id_conflict"); second > 0 && got != before+1 {
			t.Fatalf("second %d: %d records of a new address's conflict; want 1", second, got-before)
		}
		clk.advance(time.Second)
	}
}

// Many addresses are told apart only so far; then they share one's part.
func TestTheMemoryOfTheLogsLimitIsBounded(t *testing.T) {
	rec := newRecorder()
	e := newEvents(slog.New(rec), Runtime{Clock: newStillClock()}.WithDefaults(), noCounters())
	for i := range 3 * logAddresses {
		e.refused("rate_limited", netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), endpointPhone, nil)
	}
	if n := max(len(e.addresses), len(e.known)); n > logAddresses+1 || len(rec.records) > logRate {
		t.Errorf("%d addresses are remembered, %d records written; want at most %d and %d", n, len(rec.records), logAddresses+1, logRate)
	}
}

// levelled takes records from a level on.
type levelled struct {
	*recorder
	from slog.Level
}

func (l levelled) Enabled(_ context.Context, level slog.Level) bool { return level >= l.from }

func TestRecordsBelowTheLevelSuppressNoOthers(t *testing.T) {
	rec := newRecorder()
	e := newEvents(slog.New(levelled{rec, slog.LevelInfo}), Runtime{Clock: newStillClock()}.WithDefaults(), noCounters())
	b := &binary{server: "s1"}
	for range 2 * logRate {
		e.envelopeDeparted(b)
	}
	e.envelopeDropped(b, "no phone with that conn_id")
	if got := rec.count("envelope_dropped"); got != 1 || len(rec.records) != 1 {
		t.Errorf("%d of %d records are envelope_dropped; want it alone", got, len(rec.records))
	}
}

func TestTheLogDiscardsEverything(t *testing.T) {
	if e := newEvents(slog.New(slog.DiscardHandler), Runtime{}.WithDefaults(), noCounters()); !e.quiet {
		t.Error("records are made for a log that discards them")
	}
}

// What a peer sends, or holds in its headers, is never in the log, save the
// few things that are meant to be, and those cannot break a line.
func TestSecretsAreNotLogged(t *testing.T) {
	rec := newRecorder()
	secret := func(s string) string { return "CANARY" + s }
	inBubble(t, Config{Log: slog.New(rec), Burst: 30, PhoneOutbox: 300, Room: func() error { return nil }}, func(b *bubble) {
		evil := "Pixel\n\x1b[31m\u202e" + strings.Repeat("x", 1000) + secret("device-tail")
		bin := b.dial("/v1/server", polite, wire.HeaderServer, "s1", wire.HeaderVersion, "1.0\nmsg=forged", "User-Agent", secret("ua-binary"),
			"X-Pyrycode-Token", secret("token"), "Cookie", secret("cookie"))
		p := b.dial("/v1/client", polite, wire.HeaderServer, "s1", "User-Agent", secret("ua-phone"), wire.HeaderDevice, evil,
			"X-Pyrycode-Token", secret("token"), "Authorization", secret("authorization"))
		q, r, s := b.phone(polite), b.phone(polite), b.phone(polite)
		ids := b.phones()

		p.send(wire.OpText, `"`+secret("frame")+`"`)
		for _, bad := range []string{
			secret("not JSON"),
			`{"conn_id":"` + secret("conn-id") + `","frame":1}`,
			`{"conn_id":` + `"c-x","frame":"` + secret("frame") + `"}`,
			`{"push_wake":{"platform":"fcm","token":"` + secret("push") + `"}}`,
			`{"push_wake":"` + secret("push") + `"}`,
			`{"frame":"` + secret("frame") + `"}`,
			`{"conn_id":"x","` + secret("key") + `":1}`,
			"{\"" + secret("utf8") + "\xff\":1}",
		} {
			bin.send(wire.OpText, bad)
		}
		bin.send(wire.OpText, fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, ids[0].id, secret("down")))
		p.send(wire.OpClose, "\x03\xe8"+secret("reason"))
		q.send(wire.OpText, secret("not JSON either"))
		bin.send(wire.OpText, fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, ids[2].id, secret(strings.Repeat("backlog", 100))))
		r.wantClosed(-1, wire.CloseInternal, wire.ReasonPhoneBacklog)
		s.send(wire.OpPing, secret("ping"))
		for _, path := range []string{"/v1/client", "/v1/server"} { // headers that are refused
			b.serve(path, wire.HeaderServer, "", "User-Agent", secret("ua"))
			b.serve(path, wire.HeaderServer, strings.Repeat(secret("long"), 100))
			b.serve(path, "Origin", secret("origin"))
		}
		b.dial("/v1/client", polite, wire.HeaderServer, "s\n2"+secret(""), wire.HeaderDevice, "\x00")
		rival := b.binary(polite)
		rival.wantClosed(-1, wire.CloseServerInUse, wire.ReasonServerInUse)
		bin.send(wire.OpClose, "\x03\xe8"+secret("reason"))
		b.apply()
		time.Sleep(31 * time.Second)
		for range 40 { // the address's rate
			b.serve("/v1/client", wire.HeaderServer, "s1", "User-Agent", secret("ua"), "X-Pyrycode-Token", secret("token"))
		}
	})
	rec.wantKnown(t)
	text := rec.text.String()
	for line := range strings.Lines(text) {
		if strings.Contains(line, "msg=phone_register_no_server") && strings.Contains(line, `server_id=s\n2CANARY`) {
			continue // a server-id is meant to be there, escaped
		}
		if strings.Contains(line, "CANARY") {
			t.Errorf("a secret is in the log: %s", line)
		}
		if !strings.HasPrefix(line, "time=") || strings.ContainsAny(line, "\x1b\u202e\x00") {
			t.Errorf("a peer broke the log: %q", line)
		}
	}
	for _, event := range []string{"phone_registered", "phone_unregistered", "envelope_dropped", "server_id_conflict", "server_released", "rate_limited", "server_grace_expired"} {
		if rec.count(event) == 0 {
			t.Errorf("%s was not seen; the test tests less than it says", event)
		}
	}
}

// serve makes a request that is refused before its upgrade, and looks at the
// answer for what must not be in it.
func (b *bubble) serve(path string, kv ...string) {
	b.t.Helper()
	rec := answer{header: http.Header{}}
	b.Handler().ServeHTTP(&rec, request(path, "192.0.2.1:1", kv...))
	if rec.code < 400 || strings.Contains(rec.body.String(), "CANARY") {
		b.t.Errorf("%s %q: answer %d %q", path, kv, rec.code, rec.body.String())
	}
}

type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }
