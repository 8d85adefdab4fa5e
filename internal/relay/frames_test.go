package relay

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// connIDOf reads the conn-id of an envelope.
func connIDOf(t testing.TB, envelope string) string {
	t.Helper()
	var e struct {
		ConnID string `json:"conn_id"`
	}
	if err := json.Unmarshal([]byte(envelope), &e); err != nil {
		t.Fatalf("envelope %.80s: %v", envelope, err)
	}
	return e.ConnID
}

func TestFramesGoBothWays(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p := n.phone("s1")
	p.Send(`{"v":1}`)
	got := b.Recv()
	id := connIDOf(t, got)
	if want := `{"conn_id":"` + id + `","frame":{"v":1}}`; got != want {
		t.Errorf("binary got %s; want %s", got, want)
	}
	b.Send(fmt.Sprintf(`{"conn_id":%q,"frame":{"a": [1, 2]}}`, id))
	if got, want := p.Recv(), `{"a": [1, 2]}`; got != want {
		t.Errorf("phone got %s; want %s", got, want)
	}
	if got, want := n.Counts(), (Counts{Binaries: 1, Phones: 1}); got != want {
		t.Errorf("counts %+v; want %+v", got, want)
	}
}

func TestALargeFrameOfAngleBracketsIsNotEscaped(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p := n.phone("s1")
	frame := `"` + strings.Repeat("<", 256<<10-2) + `"`
	p.Send(frame)
	got := b.Recv()
	if want := `{"conn_id":"` + connIDOf(t, got) + `","frame":` + frame + `}`; got != want {
		t.Errorf("binary got %d bytes; want %d, the same", len(got), len(want))
	}
}

func TestADirectiveClosesAfterItsFrame(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p := n.phone("s1")
	p.Send(`1`)
	id := connIDOf(t, b.Recv())
	for i := range 100 {
		b.Send(fmt.Sprintf(`{"conn_id":%q,"frame":%d}`, id, i))
	}
	b.Send(fmt.Sprintf(`{"conn_id":%q,"frame":100,"close_code":4421}`, id))
	b.Send(fmt.Sprintf(`{"conn_id":%q,"frame":"after the close"}`, id))
	for i := range 101 {
		if got := p.Recv(); got != fmt.Sprint(i) {
			t.Fatalf("frame %d is %s", i, got)
		}
	}
	p.WantClose(4421, "")
	n.until(func() bool { return n.Counts().Phones == 0 })
}
