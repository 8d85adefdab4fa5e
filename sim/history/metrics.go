package history

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// metricChecks has the check of each metric that a relay exports, by name. A check compares
// the last scrape of process n with the history.
//
// A counter is often known only within bounds: a close that the relay queued and a broken socket
// did not take is counted, and no peer saw it.
var metricChecks = map[string]func(r *Run, n *Node){
	"ws_upgrade_attempts_total":    (*Run).checkAttempts,
	"register_failures_total":      (*Run).checkRegisterFailures,
	"close_frames_total":           (*Run).checkCloseFrames,
	"frames_forwarded_total":       (*Run).checkForwarded,
	"frame_bytes_total":            (*Run).checkForwarded,
	"forward_duration_seconds":     (*Run).checkTimed,
	"dropped_frames_total":         (*Run).checkDropped,
	"takeovers_total":              (*Run).checkSlotCounters,
	"reclaims_total":               (*Run).checkSlotCounters,
	"claim_conflicts_total":        (*Run).checkSlotCounters,
	"heartbeat_timeouts_total":     (*Run).checkSlotCounters,
	"grace_expiries_total":         (*Run).checkGraces,
	"grace_expiry_closes_total":    (*Run).checkGraces,
	"memory_closes_total":          (*Run).checkOperatorCounters,
	"operator_closes_total":        (*Run).checkOperatorCounters,
	"bans":                         (*Run).checkOperatorCounters, // and checkScrapes
	"access_decisions_total":       (*Run).checkDecisions,
	"log_records_suppressed_total": atRest("log_records_suppressed_total "), // the worlds have no log
	"connections":                  atRest("connections"),                   // and checkSamples
	"outbox_bytes":                 atRest("outbox_bytes "),
	"parked_phones":                atRest("parked_phones"),
	"waiting_claims":               atRest("waiting_claims"),
	"connected_binaries":           atRest("connected_binaries"), // and the worlds, after each step
	"connected_phones":             atRest("connected_phones"),
	"binaries_in_grace":            atRest("binaries_in_grace"),
	"remote_phones":                atRest("remote_phones"),

	"cluster_claims":                     atRest("cluster_claims"), // and the cluster's world, with everyone connected
	"cluster_streams":                    atRest("cluster_streams"),
	"cluster_held_claims":                atRest("cluster_held_claims"),
	"cluster_session":                    atRest("cluster_session"),
	"cluster_nodes":                      (*Run).checkNodesGauge,
	"cluster_claim_losses_total":         (*Run).checkLosses,
	"cluster_claim_refusals_total":       (*Run).checkRefusals,
	"cluster_silent_node_refusals_total": (*Run).checkRefusals,
	"cluster_broken_streams_total":       (*Run).checkBrokenStreams,
	"cluster_ended_links_total":          (*Run).checkEndedLinks,
	"cluster_round_trip_seconds":         (*Run).checkRoundTrips,
}

const prefix = "pyrycode_relay_"

// sum returns the sum of the series with names that begin so.
func (m Metrics) sum(begin string) (sum float64) {
	for name, v := range m {
		if strings.HasPrefix(name, prefix+begin) {
			sum += v
		}
	}
	return sum
}

// of returns the value of a series.
func (m Metrics) of(series string) int { return int(m[prefix+series]) }

// checkMetrics checks the last scrape of each process, which comes when all of its
// connections have ended.
func (r *Run) checkMetrics() {
	for _, n := range r.Nodes[1:] {
		if n.Last == nil {
			continue
		}
		for _, name := range metricNames {
			if !strings.HasPrefix(name, "cluster_") || r.Cluster != nil {
				metricChecks[name](r, n)
			}
		}
	}
	r.checkScrapes()
	r.violations = append(r.violations, r.sampled...)
}

// checkScrapes compares all scrapes of a process with each other: a counter never falls. It also
// checks the gauge of bans, which are all over at the end.
func (r *Run) checkScrapes() {
	last := make([]Metrics, len(r.Nodes))
	for i := range r.Events {
		e := &r.Events[i]
		if e.Kind != Scraped {
			continue
		}
		m, n := e.Data.(Metrics), r.Nodes[e.Node]
		for _, name := range slices.Sorted(maps.Keys(last[e.Node])) {
			if v := last[e.Node][name]; strings.Contains(name, "_total") && m[name] < v {
				r.fail("metrics", "process %d counts %v %s, and %v before", e.Node, m[name], name, v)
			}
		}
		last[e.Node] = m
		least, most := 0, 0
		for _, k := range r.requests {
			if !k.Ban || k.node != e.Node || k.Until < e.At || k.from.Step > e.Step || k.over.Step != 0 && k.over.Step < e.To {
				continue
			}
			if most++; k.to.Step != 0 && k.to.Step < e.To && k.lifted.After(e.Stamp) && k.Until > e.At {
				least++
			}
		}
		if r.Exact { // otherwise a ban may end during the scrape
			r.between("metrics", n, "bans", least, m.of("bans"), most)
		}
	}
}

// between fails unless a value is within bounds.
func (r *Run) between(invariant string, n *Node, what string, least, got, most int) {
	if got < least || got > most {
		r.fail(invariant, "process %d counts %d %s; want %d to %d", n.Number, got, what, least, most)
	}
}

// atRest returns a check that series are 0 when all connections have ended.
func atRest(series string) func(*Run, *Node) {
	return func(r *Run, n *Node) {
		if v := n.Last.sum(series); v != 0 {
			r.fail("metrics", "process %d shows %v %s when all connections have ended; want 0", n.Number, v, series)
		}
	}
}

// count returns how many connections of a process match.
func (r *Run) count(n *Node, match func(c *Conn) bool) (k int) {
	for _, c := range r.All() {
		if c.Node == n.Number && match(c) {
			k++
		}
	}
	return k
}

// registered returns how many of the phones that a process has registered match. In a cluster
// their sockets may be at other processes.
func (r *Run) registered(n *Node, match func(c *Conn) bool) (k int) {
	for _, c := range r.All() {
		if c.Phone && match(c) && r.home(c) == n {
			k++
		}
	}
	return k
}

// mute reports whether the relay may have closed c without writing a close message.
func (c *Conn) mute() bool { return c.Upgraded() && c.Closes == 0 }

// unserved reports whether no peer saw that c was served: the relay may have refused it, and
// closed it for another reason before it said so.
func (c *Conn) unserved() bool {
	return c.Upgraded() && c.FirstFrame().Step == 0 && len(c.Flow(0).Got) == 0
}

var endpoints = [2]string{"server", "client"}

// checkAttempts checks that each request has one outcome, and the right one.
func (r *Run) checkAttempts(n *Node) {
	for i, endpoint := range endpoints {
		of := func(outcomes ...string) (sum int) {
			for _, o := range outcomes {
				sum += n.Last.of("ws_upgrade_attempts_total " + endpoint + " " + o)
			}
			return sum
		}
		status := func(code int) int {
			return r.count(n, func(c *Conn) bool { return c.Endpoint() == i && c.Status == code })
		}
		if got := int(n.Last.sum("ws_upgrade_attempts_total " + endpoint + " ")); got != n.Attempts[i] {
			r.fail("attempts", "process %d: %d requests of a %s have %d outcomes; want one each", n.Number, n.Attempts[i], endpoint, got)
		}
		late := func(reasons ...string) (told, most int) { // refused after the upgrade
			told = r.count(n, func(c *Conn) bool {
				return c.Endpoint() == i && c.Closed && slices.Contains(reasons, c.Reason)
			})
			return told, told + r.count(n, func(c *Conn) bool { return c.Endpoint() == i && c.unserved() })
		}
		r.between("attempts", n, endpoint+" requests that are wrong", status(400), of("reject_headers", "reject_handshake"), status(400))
		r.between("attempts", n, endpoint+" requests over the rate", status(429), of("reject_rate_limit"), status(429))
		_, most := late(reasonNoAccess, reasonOperator, reasonNotOwner)
		r.between("attempts", n, endpoint+" requests that may not", status(401)+status(403), of("reject_origin", "reject_access", "reject_key", "reject_banned"), status(401)+status(403)+most)
		_, most = late(reasonShutdown, reasonManyClaims)
		r.between("attempts", n, endpoint+" requests that found no place", status(503), of("reject_capacity", "reject_draining", "reject_access_unknown", "reject_cluster"), status(503)+most)
		if i == 0 {
			told, most := late(reasonInUse, reasonNoAnswer)
			r.between("attempts", n, "refused claims", told, of("reject_409"), most)
			continue
		}
		told, most := late(reasonNoServer)
		r.between("attempts", n, "phones without a server", told, of("reject_404"), most)
		told, most = late(reasonFull)
		r.between("attempts", n, "phones too many", told, of("reject_429"), most)
	}
}

// checkRegisterFailures compares the reasons of failures with the outcomes of attempts.
func (r *Run) checkRegisterFailures(n *Node) {
	for _, k := range []struct {
		kind   string
		series []string
	}{
		{"no_server", []string{"client reject_404"}},
		{"phones_at_cap", []string{"client reject_429"}},
		{"ratelimit", []string{"server reject_rate_limit", "client reject_rate_limit"}},
		{"no_access", []string{"server reject_access", "client reject_access"}},
		{"wrong_key", []string{"server reject_key", "client reject_key"}},
	} {
		want := 0
		for _, s := range k.series {
			want += n.Last.of("ws_upgrade_attempts_total " + s)
		}
		r.between("metrics", n, "register failures of kind "+k.kind, want, n.Last.of("register_failures_total "+k.kind), want)
	}
	conflicts := n.Last.of("claim_conflicts_total")
	r.between("metrics", n, "register failures of kind server_in_use", conflicts, n.Last.of("register_failures_total server_in_use"), conflicts)
}

// label returns the label of a close code in the metrics.
func (m Metrics) label(side string, code int) string {
	l := strconv.Itoa(code)
	if _, ok := m[prefix+"close_frames_total "+l+" "+side]; !ok {
		return "other"
	}
	return l
}

// checkCloseFrames compares the close messages that are counted with those that were
// written, and with those that peers sent.
func (r *Run) checkCloseFrames(n *Node) {
	wrote, sent, read := map[string]int{}, map[string]int{}, map[string]int{}
	for _, c := range r.All() {
		if !r.local(c, n) {
			continue
		}
		if c.Closes > 0 {
			wrote[n.Last.label("relay", c.WroteCode)]++
		}
		if c.CloseSent {
			l := n.Last.label("peer", c.CloseWith)
			sent[l]++
			if c.Closes > 0 && c.closedWith(c.CloseWith, "") && c.Faults == 0 && !r.mayCross(c) {
				read[l]++
			}
		}
	}
	mute := r.count(n, (*Conn).mute) + r.proxied(n)
	for series := range n.Last {
		label, ok := strings.CutPrefix(series, prefix+"close_frames_total ")
		if !ok {
			continue
		}
		code, side, _ := strings.Cut(label, " ")
		if v := int(n.Last[series]); side == "relay" {
			r.between("metrics", n, "closes of the relay with "+code, wrote[code], v, wrote[code]+mute)
		} else {
			r.between("metrics", n, "closes of peers with "+code, read[code], v, sent[code]+r.proxied(n))
		}
	}
}

// proxied reports whether another process has registered c.
func (c *Conn) proxied() bool {
	return slices.ContainsFunc(c.homes, func(home int) bool { return home != c.Node })
}

// proxied counts the phones that have their slot, or their socket, at n, and the other at
// another process. Either may count their closes.
func (r *Run) proxied(n *Node) (k int) {
	for _, c := range r.All() {
		if c.proxied() && (slices.Contains(c.homes, n.Number) || c.Node == n.Number) {
			k++
		}
	}
	return k
}

// local reports whether n counts the frames of c, and no other process writes them.
func (r *Run) local(c *Conn, n *Node) bool {
	return c.Node == n.Number && (r.Cluster == nil || !c.proxied())
}

// mayCross reports whether the relay may have closed c with the code that c sent, for another
// reason.
func (r *Run) mayCross(c *Conn) bool {
	b, _ := r.Ordered(c)
	return b != nil || c.CloseWith == 1000 && c.Phone
}

// checkForwarded compares the counters of frames and bytes with what was written.
func (r *Run) checkForwarded(n *Node) {
	for i, direction := range [2]string{"phone_to_binary", "binary_to_phone"} {
		frames, bytes := 0, 0
		for _, c := range r.All() {
			if r.local(c, n) && c.Endpoint() == i {
				frames, bytes = frames+c.Frames, bytes+c.FrameBytes
			}
		}
		moreFrames, moreBytes := r.forwardedToProxied(n, i)
		r.between("forwarded", n, "frames "+direction, frames, n.Last.of("frames_forwarded_total "+direction), frames+moreFrames)
		r.between("forwarded", n, "bytes of frames "+direction, bytes, n.Last.of("frame_bytes_total "+direction), bytes+moreBytes)
	}
}

// forwardedToProxied returns the frames, and their bytes, that binaries of n have sent to phones at other
// processes. n may count them as forwarded.
func (r *Run) forwardedToProxied(n *Node, endpoint int) (frames, bytes int) {
	if endpoint == 0 {
		return 0, 0
	}
	for _, b := range r.All() {
		for phone, f := range b.Flows {
			if b.Phone || b.Node != n.Number || phone == 0 || r.local(r.Conns[phone], n) {
				continue
			}
			frames += len(f.Sent)
			for _, s := range f.Sent {
				bytes += s.Size
			}
		}
	}
	return frames, bytes
}

// timedEvery is the number of frames of an outbox of which one is timed.
const timedEvery = 64

// checkTimed compares the number of timed frames with the frames: one of 64 of each outbox.
func (r *Run) checkTimed(n *Node) {
	for i, direction := range [2]string{"phone_to_binary", "binary_to_phone"} {
		least, most := 0, 0
		for _, c := range r.All() {
			if r.local(c, n) && c.Endpoint() == i {
				least, most = least+c.Frames/timedEvery, most+(c.Frames+timedEvery-1)/timedEvery
			}
		}
		if more, _ := r.forwardedToProxied(n, i); more > 0 {
			most += more/timedEvery + r.proxied(n)
		}
		r.between("metrics", n, "timed frames "+direction, least, n.Last.of("forward_duration_seconds "+direction+" count"), most)
	}
}

// checkDropped compares the reasons of drops with what peers sent.
func (r *Run) checkDropped(n *Node) {
	of := func(reason string) int { return n.Last.of("dropped_frames_total " + reason) }
	least, most := 0, 0 // stray envelopes
	for _, c := range r.All() {
		if c.Node == n.Number && c.Upgraded() && !c.Phone {
			_, settled := c.frames(c.settled)
			_, read := c.frames(c.read)
			least, most = least+settled, most+read
		}
	}
	if !r.Exact {
		most = of("unknown_phone")
	}
	r.between("strays", n, "envelopes for unknown phones", least, of("unknown_phone"), most)
	r.between("wake", n, "wakes that push refused", n.RefusedWakes, of("push_refused"), n.RefusedWakes)
	bad := r.registered(n, func(c *Conn) bool { return c.Faults&DidBad != 0 })
	r.between("metrics", n, "frames that are not valid", r.told(n, 1007), of("invalid_frame"), bad)
	full := r.registered(n, func(c *Conn) bool { return c.closedWith(1011, reasonPhoneBacklog) })
	r.between("metrics", n, "frames without room", full, of("phone_backlog"), full+r.registered(n, func(c *Conn) bool { return c.Phone && c.Upgraded() && !c.closedWith(1011, reasonPhoneBacklog) }))
}

// told counts the phones of n that were closed with a code.
func (r *Run) told(n *Node, code int) int {
	return r.registered(n, func(c *Conn) bool { return c.Closed && c.Code == code && c.Reason != "" })
}

// checkSlotCounters compares the counters of conflicts, takeovers and reclaims with each
// other, and with what binaries were told.
func (r *Run) checkSlotCounters(n *Node) {
	inUse := r.count(n, func(c *Conn) bool { return c.closedWith(4409, reasonInUse) })
	r.between("metrics", n, "conflicts", inUse, n.Last.of("claim_conflicts_total"), n.Last.of("ws_upgrade_attempts_total server reject_409"))
	silent := func(phones bool) (k int) {
		return r.count(n, func(c *Conn) bool { return c.closedWith(1011, reasonHeartbeat) && c.Phone == phones && r.local(c, n) })
	}
	mute := r.count(n, func(c *Conn) bool { return c.Upgraded() && !c.Closed }) + r.proxied(n)
	timeouts, takeovers, reclaims := n.Last.of("heartbeat_timeouts_total"), n.Last.of("takeovers_total"), n.Last.of("reclaims_total")
	r.between("metrics", n, "missed heartbeats", silent(true), timeouts, silent(true)+silent(false)+mute)
	both := silent(true) + silent(false)
	if n.HasAccess { // a takeover by a binary that has lost its access is not counted
		both = silent(true)
	}
	r.between("metrics", n, "missed heartbeats and takeovers", both, timeouts+takeovers, silent(true)+silent(false)+mute)
	least := n.Reclaimed
	if n.HasAccess || r.Shared {
		least = 0
	}
	r.between("metrics", n, "reclaims", least, reclaims, n.Reclaimed)
	if accepted := n.Last.of("ws_upgrade_attempts_total server accept"); takeovers+reclaims > accepted {
		r.fail("metrics", "process %d counts %d takeovers and %d reclaims by %d binaries", n.Number, takeovers, reclaims, accepted)
	}
}

// checkGraces compares the counters of graces with those that ended, and with the phones that
// were closed at their end.
func (r *Run) checkGraces(n *Node) {
	least := n.Graces[0]
	if n.HasAccess || n.GraceKicks > 0 || r.Cluster != nil {
		least = 0 // those that an operator ended, or that lost their access or their lease, ended without a timer
	}
	r.between("expiries", n, "graces that have ended", least, n.Last.of("grace_expiries_total"), n.Graces[1])
	told := r.registered(n, func(c *Conn) bool {
		if c.CloseSent || !c.closedWith(1000, reasonGrace) {
			return false
		}
		b, o := r.Ordered(c)
		return b == nil || o.Code != 1000
	})
	r.between("expiries", n, "phones closed at the end of a grace", told, n.Last.of("grace_expiry_closes_total"), n.Expired)
}

// checkDecisions compares the decisions about access with the attempts: each binary that was upgraded
// was allowed, and each refusal is counted as one.
func (r *Run) checkDecisions(n *Node) {
	if !n.HasAccess {
		return
	}
	of := func(decision string) int { return n.Last.of("access_decisions_total " + decision) }
	binaries := r.count(n, func(c *Conn) bool { return !c.Phone && c.Upgraded() })
	r.between("metrics", n, "claims with access", binaries, of("allowed"), n.Attempts[0])
	attempts := func(outcome string) (sum int) {
		for _, endpoint := range endpoints {
			sum += n.Last.of("ws_upgrade_attempts_total " + endpoint + " " + outcome)
		}
		return sum
	}
	late := r.count(n, func(c *Conn) bool { return c.Upgraded() }) // they lost it between the answer and their slot
	refused := attempts("reject_access")
	r.between("metrics", n, "claims without access", refused-late,
		of("not_listed")+of("expired")+of("no_token")+of("unknown_token")+of("bound_elsewhere")+of("too_many_ids"), refused)
}

// checkOperatorCounters compares the counters of closes by operators, of memory, and the gauge of
// bans with their requests.
func (r *Run) checkOperatorCounters(n *Node) {
	reported, shed := 0, 0
	for _, k := range r.requests {
		if k.node == n.Number {
			reported += k.counted
		}
	}
	for _, k := range r.sheds {
		if k.node == n.Number {
			shed += k.reported
		}
	}
	r.between("metrics", n, "closes for memory", shed, n.Last.of("memory_closes_total"), shed)
	counted := n.Last.of("operator_closes_total")
	if !n.HasAccess && counted != reported { // those that lose their access are counted, too
		r.fail("disconnect", "process %d counts %d connections as closed by operators; they were told of %d", n.Number, counted, reported)
	}
	refused := n.Last.of("ws_upgrade_attempts_total server reject_banned") + n.Last.of("ws_upgrade_attempts_total client reject_banned")
	told := r.count(n, func(c *Conn) bool { return c.Closed && c.Reason == reasonOperator })
	if told > reported+refused {
		r.fail("disconnect", "%d connections were told that an operator had closed them; %d were closed, and %d refused", told, reported, refused)
	}
}
