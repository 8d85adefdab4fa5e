package relay

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// However many connections of one address wait, the next turn but one is another
// address's.
func TestAddressesTakeTurns(t *testing.T) {
	rt := Runtime{Processors: 2, Go: func(string, func()) {}}.WithDefaults()
	ts := newTurns(&rt)
	if !ts.take() || ts.take() {
		t.Fatal("of two processors readers have another number than one by turns")
	}
	var conns []*conn
	wait := func(from string) {
		c := &conn{from: netip.MustParseAddr(from)}
		c.parked.Store(true)
		conns = append(conns, c)
		ts.wait(c)
		ts.wait(c) // once more is no other place
	}
	for range 5 {
		wait("192.0.2.1")
	}
	wait("2001:db8:0:1::1")
	wait("198.51.100.1")
	wait("2001:db8:0:2::1")      // a neighbour of the other one
	conns[1].parked.Store(false) // is read meanwhile: it is being closed
	var got []int
	for range len(conns) - 1 {
		ts.give()
		for i, c := range conns {
			if c.turn && !slices.Contains(got, i) {
				got = append(got, i)
			}
		}
	}
	if want := []int{0, 5, 6, 7, 2, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("turns in the order %v; want %v", got, want)
	}
	ts.give()
	if len(ts.queue) != 0 || len(ts.ready) != 0 || ts.free != 1 {
		t.Errorf("at the end %d queues, %d free turns; want none and 1", len(ts.queue), ts.free)
	}
}

// While others have all turns a connection that sends much waits, and one that sends
// little does not. What waited arrives whole and in order, also if much of it comes
// in one read.
func TestReadersOfMuchWaitForTheirTurn(t *testing.T) {
	inBubble(t, Config{Runtime: Runtime{Processors: 3}}, func(b *bubble) {
		bin, much, little := b.binary(polite), b.phone(polite), b.phone(polite)
		for b.turns.take() {
		}
		many := slices.Concat(slices.Repeat([][]byte{clientMail(wire.OpText, "1")}, 3000)...)
		go func() {
			much.send(wire.OpText, `"`+strings.Repeat("x", 60<<10)+`"`)
			much.write(many)
			much.send(wire.OpText, "2")
		}()
		b.apply()
		little.send(wire.OpText, "0")
		if got := bin.texts(); len(got) != 1 || !strings.HasSuffix(got[0], `"frame":0}`) {
			t.Errorf("while there is no turn the binary got %d frames; want the one of who sends little", len(got))
		}
		b.turns.give()
		b.apply()
		got := bin.texts()
		if len(got) != 3003 || len(got[1]) < 60<<10 || !strings.HasSuffix(got[3001], `"frame":1}`) || !strings.HasSuffix(got[3002], `"frame":2}`) {
			t.Errorf("the binary got %d frames; want 3003, in order", len(got))
		}
		b.turns.give()
		if b.turns.free != 2 || len(b.turns.queue) != 0 {
			t.Errorf("%d turns are free at the end, %d queues; want 2 and none", b.turns.free, len(b.turns.queue))
		}
	})
}

// Who waits for a turn can be closed, and takes nothing with it.
func TestAReaderThatWaitsForItsTurnCanBeClosed(t *testing.T) {
	inBubble(t, Config{Runtime: Runtime{Processors: 2}}, func(b *bubble) {
		b.binary(polite)
		p := b.phone(polite)
		b.turns.take()
		go p.send(wire.OpText, `"`+strings.Repeat("x", 60<<10)+`"`)
		b.apply()
		b.phones()[0].fail(wire.ClosePolicy, "enough")
		b.apply()
		p.wantClosed(0, wire.ClosePolicy, "enough")
		b.turns.give()
		b.apply()
		if b.turns.free != 1 {
			t.Errorf("%d turns are free; want 1", b.turns.free)
		}
	})
}
