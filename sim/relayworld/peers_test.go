package relayworld

import (
	"os"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

func TestPeersAreStrict(t *testing.T) {
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
			t.Errorf("byte %d changed, and the check does not detect it", i)
		}
		b[i] ^= 1
	}
}

func TestThePageShowsPeersAndWhereItBroke(t *testing.T) {
	x := engine.Runner{World: World{}, Trace: true}
	text, err := os.ReadFile("../testdata/relay-stalled-phone.run")
	if err != nil {
		t.Fatal(err)
	}
	r, err := engine.ParsePlan(string(text), x.World)
	if err != nil {
		t.Fatal(err)
	}
	res := x.Replay(r)
	page := engine.HTML(res)
	for _, want := range []string{">p1<", ">relay<", ">b1<", `class="arrow" x1="1`, `class="stall" x=`, "1011 phone backlog full", "everything held", "</html>"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if strings.Contains(page, "src=") || strings.Contains(page, `id="broke"`) {
		t.Error("the page needs more than itself, or shows a failure where there is none")
	}
	res.Failure = &engine.Failure{Invariant: "order", Detail: "<b>", Step: 100}
	if page = engine.HTML(res); !strings.Contains(page, `id="broke"`) || !strings.Contains(page, "order: &lt;b&gt;") {
		t.Error("the page does not show where it broke")
	}
}
