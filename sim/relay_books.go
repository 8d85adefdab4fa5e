package sim

import (
	"math/bits"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// The relay's books: each data message that it took in is forwarded,
// dropped with a reason, or still to be written. A directive without a
// frame is neither, unless it names nobody.
//
// What was taken in is seen at the sockets. A connection that reads, and is
// not about to close, has taken in all that it read; of one that ends, what
// it had taken in when last seen at rest is certain, and all that it has
// read is the most.

// entry counts the data messages that the relay has read from one socket,
// by their headers, without a look at the relay's own code. It is used and
// read where the race detector does not look.
type entry struct {
	head   [14]byte
	nhead  int
	left   uint64 // of the fragment's payload
	whole  int    // messages read to their end
	broken bool
}

// see takes what has been read.
//
//go:norace
func (in *entry) see(b *relay.Buffer, n int) {
	for i := 0; i < n && !in.broken; {
		if in.left > 0 {
			k := min(in.left, uint64(n-i))
			in.left -= k
			i += int(k)
			in.end()
			continue
		}
		in.head[in.nhead] = b[i]
		in.nhead++
		i++
		in.header()
	}
}

// header looks whether a fragment's header is whole.
//
//go:norace
func (in *entry) header() {
	if in.nhead < 2 {
		return
	}
	size, long := uint64(in.head[1]&127), 0
	switch size {
	case 126:
		long = 2
	case 127:
		long = 8
	}
	if in.nhead < 2+long+4 {
		return
	}
	if long > 0 {
		size = 0
		for i := range long {
			size = size<<8 | uint64(in.head[2+i])
		}
	}
	in.broken = in.head[0]&0x70 != 0 || in.head[1]&0x80 == 0
	in.left = size
	in.end()
}

// end looks whether a fragment has come to its end.
//
//go:norace
func (in *entry) end() {
	if in.left > 0 {
		return
	}
	if op := in.head[0] & 15; in.head[0]&0x80 != 0 && (op == opText || op == opBinary || op == opContinue) {
		in.whole++
	}
	in.nhead = 0
}

// mails says of each data message that a peer sent whether it is a directive
// without a frame, and whether it is stray: an envelope for a phone that never
// was this binary's.
type mails struct {
	n           int
	bare, stray [32]uint64
}

//go:norace
func (k *mails) sent(bare bool) {
	if bare && k.n < 64*len(k.bare) {
		k.bare[k.n/64] |= 1 << (k.n % 64)
	}
	k.n++
}

// wentAstray says that the last message was stray.
//
//go:norace
func (k *mails) wentAstray() {
	if i := k.n - 1; i < 64*len(k.stray) {
		k.stray[i/64] |= 1 << (i % 64)
	}
}

// frames is how many of the first n carry a frame, or should.
//
//go:norace
func (k *mails) frames(n int) int { return n - marked(&k.bare, n) }

// strays is how many of the first n are stray.
//
//go:norace
func (k *mails) strays(n int) int { return marked(&k.stray, n) }

// marked is how many of the first n bits are set.
//
//go:norace
func marked(words *[32]uint64, n int) (m int) {
	for i := 0; i < len(words) && 64*i < n; i++ {
		word := words[i]
		if n-64*i < 64 {
			word &= 1<<(n-64*i) - 1
		}
		m += bits.OnesCount64(word)
	}
	return m
}

// countersOf returns the relay's counters of frames. Seams do nothing
// meanwhile: a process that starts is not there yet.
func (w *relayRun) countersOf(r *relay.Relay) (all []prometheus.Metric) {
	ch := make(chan prometheus.Metric, 512)
	w.e.look(true)
	r.Metrics().Collect(ch)
	w.e.look(false)
	close(ch)
	for m := range ch {
		if d := m.Desc().String(); strings.Contains(d, `"pyrycode_relay_frames_forwarded_total"`) || strings.Contains(d, `"pyrycode_relay_dropped_frames_total"`) {
			all = append(all, m)
		}
	}
	return all
}

// balance holds the books of one process against what was read. at rest
// nothing else runs; in the end nothing is pending any more.
func (w *relayRun) balance(d *node, end bool) {
	least, most, pending := w.taken(d)
	counted := 0
	hideOn()
	for _, m := range d.books {
		var v dto.Metric
		if m.Write(&v) == nil {
			counted += int(v.GetCounter().GetValue())
		}
	}
	hideOff()
	if counted > most || counted < least && (end || !pending) {
		w.e.Fail("books", "%d frames are counted as forwarded or dropped; from %d to %d were taken in", counted, least, most)
	}
}

// taken is what a process has taken in, at least and at most, and whether
// something may still wait to be written.
//
//go:norace
func (w *relayRun) taken(d *node) (least, most int, pending bool) {
	for n := 1; n <= w.nclients; n++ {
		c := w.clients[n].Load()
		if c == nil || c.node != d {
			continue
		}
		s := c.sock
		if s.reading && s.writers == 0 && !s.closed && s.tap.closes == 0 {
			c.sure, c.sureStrays = c.mails.frames(s.in.whole), c.mails.strays(s.in.whole)
		}
		pending = pending || s.writers > 0
		least += c.sure
		most += s.in.whole
	}
	return least, most, pending
}

// strays holds what a process counted as sent to unknown phones against the
// envelopes that it has taken in for phones that never were their sender's. An
// envelope for a phone that has left is none of them: honest binaries send such
// ones.
func (w *relayRun) strays(d *node, unknown int) {
	least, most := 0, 0
	for _, c := range w.all() {
		if c.node == d && c.upgraded {
			least += c.sureStrays
			most += c.mails.strays(c.sock.in.whole)
		}
	}
	if unknown < least || w.calm && unknown > most {
		w.e.Fail("strays", "%d envelopes are counted as for unknown phones; from %d to %d were", unknown, least, most)
	}
}
