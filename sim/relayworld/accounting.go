package relayworld

import (
	"math/bits"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// The relay's frame accounting: each data message that it accepted is
// forwarded, dropped with a reason, or still waits to be written. A directive
// without a frame is not counted, unless it names an unknown phone.
//
// The number of accepted messages is derived from the sockets. A connection
// that reads, and is not about to close, has accepted all messages that it read.
// For a connection that ends there are two bounds: at least the messages that
// it had accepted when no task ran last, and at most all that it has read.

// inboundCounter counts the data messages that the relay has read from one
// socket, by their headers and without the relay's own code. It is used only in
// functions that are hidden from the race detector.
type inboundCounter struct {
	headerBytes [14]byte
	headerLen   int
	payloadLeft uint64 // of the fragment's payload
	Messages    int    // messages read to their end
	malformed   bool
}

// add parses the bytes of one read.
//
//go:norace
func (in *inboundCounter) add(b []byte) {
	for i, n := 0, len(b); i < n && !in.malformed; {
		if in.payloadLeft > 0 {
			k := min(in.payloadLeft, uint64(n-i))
			in.payloadLeft -= k
			i += int(k)
			in.end()
			continue
		}
		in.headerBytes[in.headerLen] = b[i]
		in.headerLen++
		i++
		in.header()
	}
}

// header parses a fragment's header once it is complete.
//
//go:norace
func (in *inboundCounter) header() {
	if in.headerLen < 2 {
		return
	}
	size, long := uint64(in.headerBytes[1]&127), 0
	switch size {
	case 126:
		long = 2
	case 127:
		long = 8
	}
	if in.headerLen < 2+long+4 {
		return
	}
	if long > 0 {
		size = 0
		for i := range long {
			size = size<<8 | uint64(in.headerBytes[2+i])
		}
	}
	in.malformed = in.headerBytes[0]&0x70 != 0 || in.headerBytes[1]&0x80 == 0
	in.payloadLeft = size
	in.end()
}

// end counts a message at the end of its last fragment.
//
//go:norace
func (in *inboundCounter) end() {
	if in.payloadLeft > 0 {
		return
	}
	if op := in.headerBytes[0] & 15; in.headerBytes[0]&0x80 != 0 && (op == opText || op == opBinary || op == opContinue) {
		in.Messages++
	}
	in.headerLen = 0
}

// sentLog records for each data message that a peer sent whether it is a
// directive without a frame, and whether it is stray: an envelope for a phone
// that never was a phone of this binary.
type sentLog struct {
	n                    int
	bareDirective, stray [32]uint64
}

//go:norace
func (k *sentLog) add(bare bool) {
	if bare && k.n < 64*len(k.bareDirective) {
		k.bareDirective[k.n/64] |= 1 << (k.n % 64)
	}
	k.n++
}

// markStray marks the last message as stray.
//
//go:norace
func (k *sentLog) markStray() {
	if i := k.n - 1; i < 64*len(k.stray) {
		k.stray[i/64] |= 1 << (i % 64)
	}
}

// Frames counts the messages among the first n that are not bare directives.
//
//go:norace
func (k *sentLog) Frames(n int) int { return n - countBits(&k.bareDirective, n) }

// strays counts the stray messages among the first n.
//
//go:norace
func (k *sentLog) strays(n int) int { return countBits(&k.stray, n) }

// countBits counts the set bits among the first n.
//
//go:norace
func countBits(bitset *[32]uint64, n int) (m int) {
	for i := 0; i < len(bitset) && 64*i < n; i++ {
		word := bitset[i]
		if n-64*i < 64 {
			word &= 1<<(n-64*i) - 1
		}
		m += bits.OnesCount64(word)
	}
	return m
}

// frameCounters returns the relay's counters of frames. Yield points do nothing
// meanwhile, because the process is not complete while it starts.
func (w *Instance) frameCounters(r *relay.Relay) (all []prometheus.Metric) {
	ch := make(chan prometheus.Metric, 512)
	w.Engine.WithoutYields(func() { r.Metrics().Collect(ch) })
	close(ch)
	for m := range ch {
		if d := m.Desc().String(); strings.Contains(d, `"pyrycode_relay_frames_forwarded_total"`) || strings.Contains(d, `"pyrycode_relay_dropped_frames_total"`) {
			all = append(all, m)
		}
	}
	return all
}

// checkAccounting compares the frame counters of one process with the frames
// that were read. No task runs meanwhile. If end is true, no frame may be
// pending.
func (w *Instance) checkAccounting(d *Node, end bool) {
	least, most, pending := w.acceptedFrames(d)
	counted := 0
	engine.HideOrder(func() {
		for _, m := range d.FrameCounters {
			var v dto.Metric
			if m.Write(&v) == nil {
				counted += int(v.GetCounter().GetValue())
			}
		}
	})
	if counted > most || counted < least && (end || !pending) {
		w.Engine.Fail("books", "%d frames are counted as forwarded or dropped; the relay accepted from %d to %d", counted, least, most)
	}
}

// acceptedFrames returns how many frames a process has accepted, at least and
// at most, and whether frames may still wait to be written.
//
//go:norace
func (w *Instance) acceptedFrames(d *Node) (least, most int, pending bool) {
	for n := 1; n <= w.Nclients; n++ {
		c := w.Clients[n].Load()
		if c == nil || c.Node != d {
			continue
		}
		s := c.Sock
		if s.Idle() {
			c.AcceptedFrames, c.acceptedStrays = c.SentLog.Frames(s.In.Messages), c.SentLog.strays(s.In.Messages)
		}
		pending = pending || s.Blocked()
		least += c.AcceptedFrames
		most += s.In.Messages
	}
	return least, most, pending
}

// checkStrays compares the counter of frames to unknown phones with the stray
// envelopes that the process accepted. An envelope for a phone that has left is
// not stray: correct binaries send such envelopes.
func (w *Instance) checkStrays(d *Node, unknown int) {
	least, most := 0, 0
	for _, c := range w.All() {
		if c.Node == d && c.Upgraded {
			least += c.acceptedStrays
			most += c.SentLog.strays(c.Sock.In.Messages)
		}
	}
	if unknown < least || w.exactTiming && unknown > most {
		w.Engine.Fail("strays", "%d envelopes are counted as for unknown phones; from %d to %d were", unknown, least, most)
	}
}
