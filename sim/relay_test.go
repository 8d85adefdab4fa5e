package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestRelayHolds(t *testing.T) {
	n := uint64(600)
	if RaceBuild {
		n = 300
	}
	if testing.Short() {
		n = 60
	}
	s := Sweep{Runner: Runner{World: relayWorld{}}, From: 1, To: n, Twice: 5}
	tally, res, err := s.Run()
	if err != nil {
		t.Fatal(err)
	}
	if res != nil {
		t.Fatal(s.Explain(res, 5*time.Second).Summary())
	}
	// What is rare takes thousands of seeds; a sweep of these must still
	// have seen nearly all.
	if want := len(tally.Probes) * 9 / 10; !testing.Short() && tally.Hit() < want {
		t.Errorf("%d of %d probes seen; want %d at least:\n%s", tally.Hit(), len(tally.Probes), want, tally.Rarest(s.World, 3))
	}
}

func TestPlannedRelayRunsReadBack(t *testing.T) {
	for seed := range uint64(50) {
		r := relayWorld{}.Plan(NewRand(seed), false)
		r.World, r.Seed = "relay", fmt.Sprint(seed)
		back, err := ParseRun(r.String())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := back.String(), r.String(); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// A recorded run of the whole relay does exactly what the seed did.
func TestRecordedRelayRunsRepeat(t *testing.T) {
	x := Runner{World: relayWorld{}, Trace: true}
	for i := range 10 {
		res, err := x.Seed(Seed(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		if run, again := x.Record(res); again.Hash != res.Hash || again.Missed+again.Unused > 0 {
			t.Fatalf("seed %d, %s: %d steps %016x became %d steps %016x, %d switches missed, %d unused\n%s", i, res.Strategy,
				res.Steps, res.Hash, again.Steps, again.Hash, again.Missed, again.Unused, run)
		}
	}
}

// The peers' own WebSocket code, against messages that no server may send.
func TestPeersAreStrict(t *testing.T) {
	for name, b := range map[string][]byte{
		"binary opcode":    {0x82, 1, '1'},
		"reserved bit":     {0xc1, 1, '1'},
		"fragment":         {0x01, 1, '1'},
		"continuation":     {0x80, 1, '1'},
		"masked":           {0x81, 0x81, 0, 0, 0, 0, '1'},
		"long control":     {0x89, 126, 0, 126},
		"long length form": {0x81, 126, 0, 5},
		"unknown opcode":   {0x83, 0},
	} {
		in := inbox{bytes: b}
		if _, _, ok, wrong := in.next(); ok || wrong == "" {
			t.Errorf("%s is accepted", name)
		}
	}
	for _, s := range []string{
		`{"conn_id":"c-0123456789abcdef","frame":1,"close_code":1000}`,
		`{"conn_id":"c-0123456789abcdef","frame":null,"close_code":1000}`,
		`{"conn_id":"c-0123456789abcdef", "close_code":1000}`,
		`{"conn_id":"c-0123456789abcdef","close_code":1000,"token":""}`,
		`{"conn_id":"c-0123"}`,
	} {
		_, inner, _, ok := takeEnvelope([]byte(s))
		if _, whole := parseFrame(inner); ok && (inner == nil || whole) {
			t.Errorf("%s is accepted", s)
		}
	}
	f := frame{phone: 7, n: 3, echo: true}
	b := f.append(nil, 100)
	if got, ok := parseFrame(b); !ok || got != f {
		t.Errorf("parsed %+v %t; want %+v", got, ok, f)
	}
	for i := range b {
		b[i] ^= 1
		if _, ok := parseFrame(b); ok {
			t.Errorf("byte %d changed, and nobody sees it", i)
		}
		b[i] ^= 1
	}
}

func TestThePageShowsPeersAndWhereItBroke(t *testing.T) {
	x := Runner{World: relayWorld{}, Trace: true}
	stories, err := Stories()
	if err != nil {
		t.Fatal(err)
	}
	res := x.Replay(stories["relay-stalled-phone"])
	page := HTML(res)
	for _, want := range []string{">p1<", ">relay<", ">b1<", `class="arrow" x1="1`, `class="stall" x=`, "1011 phone backlog full", "everything held", "</html>"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if strings.Contains(page, "src=") || strings.Contains(page, `id="broke"`) {
		t.Error("the page needs more than itself, or shows a failure where there is none")
	}
	res.Failure = &Failure{Invariant: "order", Detail: "<b>", Step: 100}
	if page = HTML(res); !strings.Contains(page, `id="broke"`) || !strings.Contains(page, "order: &lt;b&gt;") {
		t.Error("the page does not show where it broke")
	}
}
