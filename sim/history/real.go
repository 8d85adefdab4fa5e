package history

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// CheckPeers judges the history of clients of one real relay, and returns what is wrong. It
// runs the checkers that need no knowledge of the relay's sockets and no exact durations:
//
//   - each frame arrives once, in order, unchanged, at its phone or binary (CheckReceived);
//   - notices and the limit of phones (CheckFlows);
//   - one binary of a server-id serves at a time (CheckOverlaps), and an order of claims and
//     ends explains all answers (CheckLinearizable);
//   - each close has a reason in the table of closes, with the rows below;
//   - the counters are at least what these clients saw, and never fall (checkCounted).
//
// A client that writes bytes which are no frames is judged, too, but its frames are unknown.
// So are those of strangers. Then frames of that server-id are not compared with what was
// sent, and closes for which another client can be the reason are allowed.
func CheckPeers(r *Run, rows ...Reason) []Violation {
	r.CheckReceived()
	for _, c := range r.All() {
		if !c.Upgraded() {
			continue
		}
		if c.Closed {
			all := slices.Concat(rows, peerCloses)
			if why := r.Unfounded(c, all...); why != "" {
				r.blameClose(why, c, all...)
			}
		}
		if c.Phone {
			r.CheckFlows(c)
		}
	}
	r.CheckOverlaps()
	r.CheckLinearizable(nil)
	r.checkScrapes()
	for _, n := range r.Nodes[1:] {
		if n.Last != nil {
			r.checkCounted(n)
		}
	}
	return r.violations
}

// closeNotice is how long a real relay may take to notice that a client has left.
const closeNotice = 2e9

// peerCloses are the closes of real processes that do not depend on what this history knows,
// or that depend on less. They come before the table of closes.
var peerCloses = []Reason{
	{1000, AnyText, Both, "close code", (*Run).unknownPeers},
	{1001, AnyText, Both, "close code", allowed}, // a drain, or an operator; their tests check when
	{1012, reasonShutdown, Both, "drain", allowed},
	{1002, AnyText, Both, "close code", did(DidBreak)},
	{1007, AnyText, Both, "close code", did(DidBreak | DidBad)},
	{1008, AnyText, Both, "close code", allowed}, // too slow, or too many bad envelopes
	{1009, AnyText, Both, "close code", allowed}, // the size is not judged
	{1013, AnyText, Binaries, "close code", allowed},
	{1011, "relay is short of memory", Both, "relief", allowed},
	{1011, reasonPhoneBacklog, Phones, "budget", func(r *Run, c *Conn) bool { return r.unknownPeers(c) || r.backlogOverflowed(c) }},
	{4404, "binary reclaimed server-id", Phones, "reclaimed", func(r *Run, c *Conn) bool { return r.unknownPeers(c) || r.newBinary(c) }},
	{4429, reasonFull, Phones, "joined", func(r *Run, c *Conn) bool { return r.unknownPeers(c) || r.SlotFull(c) }},
	{4409, reasonInUse, Binaries, "spurious 4409", func(r *Run, c *Conn) bool { return r.Strangers || HeldMeanwhile(closeNotice)(r, c) }},
}

func allowed(*Run, *Conn) bool { return true }

// unknownPeers reports whether frames for c may exist that the history does not have.
func (r *Run) unknownPeers(c *Conn) bool {
	return r.Strangers || r.Binaries(c, func(b *Conn) bool { return b.Faults&DidBreak != 0 })
}

// provenThroughout reports whether b served a phone before c connected and after c was
// closed. It holds for real processes, where b can lose its slot before its peer knows.
func (r *Run) provenThroughout(b, c *Conn) bool {
	p := r.proofs(b)
	return p.N > 0 && p.MinEnd < c.DialedAt.At && p.MaxStart > c.ClosedAt.At
}

// checkCounted compares counters with what clients have received. Other clients may add to
// them.
func (r *Run) checkCounted(n *Node) {
	var closes = map[string]int{}
	var frames, decided [2]int
	for _, c := range r.All() {
		if c.Node != n.Number || !c.Upgraded() {
			continue
		}
		if c.Closed && !(c.CloseSent && c.Code == c.CloseWith) {
			closes[n.Last.label("relay", c.Code)]++
		}
		got := 0
		for _, f := range c.Flows {
			got += len(f.Got)
		}
		frames[c.Endpoint()] += got
		if got > 0 || c.Closed {
			decided[c.Endpoint()]++
		}
	}
	least := func(what string, want, got int) {
		if got < want {
			r.fail("metrics", "process %d counts %d %s; its clients saw %d", n.Number, got, what, want)
		}
	}
	for i, endpoint := range endpoints {
		direction := [2]string{"phone_to_binary", "binary_to_phone"}[i]
		least("requests of a "+endpoint, decided[i], int(n.Last.sum("ws_upgrade_attempts_total "+endpoint+" ")))
		least("frames "+direction, frames[i], n.Last.of("frames_forwarded_total "+direction))
	}
	for code, want := range closes {
		least("closes with "+code, want, n.Last.of("close_frames_total "+code+" relay"))
	}
}

var seriesLabel = regexp.MustCompile(`="((?:[^"\\\\]|\\\\.)*)"`)

// ParseMetrics returns the series of a page in Prometheus' text format. Of a histogram it has
// the count only.
func ParseMetrics(page string) Metrics {
	m := Metrics{}
	for line := range strings.Lines(page) {
		series, value, ok := cutLast(strings.TrimSpace(line), " ")
		v, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil || line[0] == '#' {
			continue
		}
		name, labels, _ := strings.Cut(series, "{")
		name, counted := strings.CutSuffix(name, "_count")
		for _, l := range seriesLabel.FindAllStringSubmatch(labels, -1) {
			name += " " + l[1]
		}
		if counted {
			name += " count"
		}
		m[name] = v
	}
	return m
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
