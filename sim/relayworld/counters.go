package relayworld

import "strings"

// processes returns all processes of the run, the newest last.
func (w *Instance) processes() []*Node {
	var ds []*Node
	for _, c := range w.All() {
		if k := len(ds); k == 0 || ds[k-1] != c.Node {
			seen := false
			for _, d := range ds {
				seen = seen || d == c.Node
			}
			if !seen {
				ds = append(ds, c.Node)
			}
		}
	}
	return ds
}

// judgeCounters compares the relay's counters with the bytes that it wrote.
func (w *Instance) judgeCounters(d *Node) {
	got := Gather(d.Relay.Metrics())
	const prefix = "pyrycode_relay_"
	var frames, refused [2]int
	for _, c := range w.All() {
		if c.Node != d {
			continue
		}
		frames[c.Endpoint()] += c.Sock.Tap.Frames
		if c.Code == 4409 && c.Reason != "" {
			refused[0]++
		}
		if c.Code == 4404 && c.Reason == "no server with that id" {
			refused[1]++
		}
	}
	var attempts [2]float64
	for name, v := range got {
		for i, endpoint := range []string{"server", "client"} {
			if strings.HasPrefix(name, prefix+"ws_upgrade_attempts_total "+endpoint+" ") {
				attempts[i] += v
			}
		}
	}
	for i, dir := range []string{"phone_to_binary", "binary_to_phone"} {
		if v := got[prefix+"frames_forwarded_total "+dir]; v != float64(frames[i]) {
			w.Engine.Fail("forwarded", "the relay counts %v frames %s; %d are on the wire", v, dir, frames[i])
		}
		if attempts[i] != float64(d.Requests[i]) {
			w.Engine.Fail("attempts", "%d requests at endpoint %d have %v outcomes; want one each", d.Requests[i], i, attempts[i])
		}
	}
	if v := got[prefix+"ws_upgrade_attempts_total server reject_409"]; int(v) < refused[0] {
		w.Engine.Fail("attempts", "%d binaries were told 4409; %v are counted", refused[0], v)
	}
	if v := got[prefix+"ws_upgrade_attempts_total client reject_404"]; int(v) < refused[1] {
		w.Engine.Fail("attempts", "%d phones were told that there is no server; %v are counted", refused[1], v)
	}
	v := int(got[prefix+"grace_expiries_total"])
	if d.access != nil || d.graceKicks > 0 {
		v = max(v, d.expired) // d.expired has those, too, that lost their access in grace
	}
	if v < d.expired || w.drained.Step == 0 && v != d.expired {
		w.Engine.Fail("expiries", "%d graces have ended and %v are counted", d.expired, v)
	}
	w.judgeDisconnectCounts(d, int(got[prefix+"operator_closes_total"]),
		int(got[prefix+"ws_upgrade_attempts_total server reject_banned"]+got[prefix+"ws_upgrade_attempts_total client reject_banned"]))
	w.judgeGraceCloses(d, int(got[prefix+"grace_expiry_closes_total"]))
	w.checkStrays(d, int(got[prefix+"dropped_frames_total unknown_phone"]))
	w.judgeRefusedWakes(d, got[prefix+"dropped_frames_total push_refused"])
	w.coverCounters(got)
}

// judgeGraceCloses compares the counter of phones closed at the end of a grace
// with the phones that were joined then, and with those that were closed with
// 1000 without a close or a directive of a peer.
func (w *Instance) judgeGraceCloses(d *Node, counted int) {
	told := 0
	for _, c := range w.All() {
		if c.Node != d || !c.Phone || !c.Closed || c.Code != 1000 || c.Reason != "" || c.CloseSent {
			continue
		}
		if b, o := w.ordered(c); b == nil || o.code != 1000 {
			told++
		}
	}
	if counted < told || w.drained.Step == 0 && counted > d.expiredPhones {
		w.Engine.Fail("expiries", "%d phones are counted as closed at the end of a grace; %d were told so, %d were there", counted, told, d.expiredPhones)
	}
}
