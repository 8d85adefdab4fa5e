package relayworld

import (
	"fmt"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/access"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// Access that operators change while the relay runs: the real list of
// internal/access, and a verifier in front of it that is slow or gone.

// noAccessReason is the reason of a close because the server-id has lost its access.
const noAccessReason = "server-id has no access any more"

// accessPeriod is a period in which a list was in force in one process.
type accessPeriod struct {
	allows   [MaxServers]bool
	node     *Node
	from, to engine.Stamp // from the beginning of the change to it to the end of the next change

	expiresAt int64 // when one of its server-ids expires; 0: none does
	ending    int   // that server-id
}

// accessWorld is the access of one process. Its fields are used by one task at a time, and
// are hidden from the race detector.
type accessWorld struct {
	w       *Instance
	node    *Node
	policy  *access.Policy
	expires time.Time // of the list in force; zero: it does not expire
	ending  int       // the server-id that expires
	busy    bool      // a change has begun and not ended
}

// accessKinds are the values of the parameter access.
const (
	accessOff      = iota
	accessList     // the list decides immediately
	accessVerifier // the answer takes time, before and after the decision, or does not come
)

// newAccess returns the access of a process that starts: every server-id has access. It
// returns nil if the run has none.
func (w *Instance) newAccess(d *Node, rt relay.Runtime) relay.Access {
	if w.Run.Param("access", accessOff) == accessOff {
		return nil
	}
	a := &accessWorld{w: w, node: d, policy: access.NewList(rt)}
	d.access = a
	a.change(accessOf(0), 0)
	return a
}

// Attach implements relay.Access.
func (a *accessWorld) Attach(changed func()) {
	a.policy.Attach(func() {
		a.noteExpiry()
		changed()
		a.noteChanged()
	})
}

// Ask implements relay.Access. Some answers take time before the list is read, and some
// afterwards, so that the list changes meanwhile.
func (a *accessWorld) Ask(q relay.AccessQuestion) (relay.Terms, error) {
	c, _ := a.w.Engine.Current().Data.(*Client)
	how := a.verifierOf(c)
	wait := time.Duration(how%7) * 500 * time.Millisecond
	if how%4 == 1 || how%4 == 3 {
		a.w.Engine.Sleep(wait)
	}
	a.noteExpiry()
	if how%16 == 3 {
		a.noteGone(c)
		return relay.Terms{}, &relay.AccessRefusal{Status: 503, Wait: 5, Text: "the verifier is gone"}
	}
	terms, err := a.policy.Ask(q)
	if how%4 == 2 {
		a.w.Engine.Sleep(wait)
	}
	return terms, err
}

// verifierOf says how the verifier answers about c: 0 is immediately. After the faults it
// always does.
//
//go:norace
func (a *accessWorld) verifierOf(c *Client) uint64 {
	w := a.w
	if c == nil || w.Healing || w.Run.Param("access", accessOff) != accessVerifier {
		return 0
	}
	return engine.Mix(uint64(c.Number)<<20 + uint64(w.Run.Param("noise", 0)))
}

// Allowed implements relay.Access.
func (a *accessWorld) Allowed(id wire.ServerID) bool {
	a.noteExpiry()
	return a.policy.Allowed(id)
}

// accessOf returns the server-ids that a list allows, by the argument of an operation.
func accessOf(n int) (allows [MaxServers]bool) {
	for s := range allows {
		allows[s] = n%8&(1<<s) == 0
	}
	return allows
}

// changeAccess puts another list into force. In some of them one server-id expires a few
// seconds later.
func (w *Instance) changeAccess(d *Node, n int) {
	if d.access == nil || w.healingNow() {
		return
	}
	after := [...]time.Duration{0, 3 * time.Second, 3 * time.Second, 20 * time.Second}[n/8%4]
	d.access.change(accessOf(n), after)
}

//go:norace
func (w *Instance) healingNow() bool { return w.Healing }

// allowAll gives access to all server-ids, for the end of a run.
func (w *Instance) allowAll(d *Node) {
	for d.access != nil && !d.access.change(accessOf(0), 0) {
		w.Engine.Sleep(time.Second)
	}
}

// change puts a list into force. after is the time until one of its server-ids expires, or
// 0. It reports false, and changes nothing, during another change.
func (a *accessWorld) change(allows [MaxServers]bool, after time.Duration) bool {
	if !a.begin(allows, after) {
		return false
	}
	text := "# the list\n"
	for s, ok := range allows {
		if !ok {
			continue
		}
		text += Servers[s]
		if s == a.ending && !a.expires.IsZero() {
			text += " expires=" + access.FormatTime(a.expires)
		}
		text += "\n"
	}
	b, err := access.ParseBook([]byte(text), access.ServerIDs)
	if err != nil {
		panic(fmt.Sprintf("%q: %v", text, err))
	}
	a.policy.Use(b)
	a.end()
	return true
}

// begin records that a list begins to come into force.
//
//go:norace
func (a *accessWorld) begin(allows [MaxServers]bool, after time.Duration) bool {
	if a.busy || a.w.naccess > len(a.w.accessPeriods)-2*maxLives {
		return false
	}
	a.busy = true
	a.expires = time.Time{}
	if after > 0 {
		a.expires = a.w.Engine.Time().Add(after).Truncate(time.Second)
		a.ending = (a.w.naccess + 2) % MaxServers
	}
	a.addPeriod(allows)
	if p := a.last(); after > 0 && allows[a.ending] {
		p.expiresAt, p.ending = int64(a.expires.Sub(engine.Epoch)), a.ending
	}
	return true
}

//go:norace
func (a *accessWorld) addPeriod(allows [MaxServers]bool) {
	p := &a.w.accessPeriods[a.w.naccess]
	p.allows, p.node, p.from = allows, a.node, a.w.Engine.Stamp()
	a.w.naccess++
}

//go:norace
func (a *accessWorld) end() { a.busy = false }

// noteExpiry records the first moment at which an expired server-id can have lost its
// access.
//
//go:norace
func (a *accessWorld) noteExpiry() {
	if a.expires.IsZero() || a.w.Engine.Time().Before(a.expires) || a.w.naccess == len(a.w.accessPeriods) {
		return
	}
	a.expires = time.Time{}
	allows := a.last().allows
	allows[a.ending] = false
	a.addPeriod(allows)
}

// noteChanged records that the relay has closed what has lost its access: only the last
// list is in force.
//
//go:norace
func (a *accessWorld) noteChanged() {
	for i := range a.w.accessPeriods[:a.w.naccess-1] {
		if p := &a.w.accessPeriods[i]; p.node == a.node && p.to.Step == 0 && p != a.last() {
			p.to = a.w.Engine.Stamp()
		}
	}
}

// last returns the newest period of the process.
//
//go:norace
func (a *accessWorld) last() *accessPeriod {
	for i := a.w.naccess - 1; ; i-- {
		if p := &a.w.accessPeriods[i]; p.node == a.node {
			return p
		}
	}
}

//go:norace
func (a *accessWorld) noteGone(c *Client) { c.verifierGone = true }

// access reports whether a list that allows a server-id, and one that does not, may have
// been in force in d between from and to.
func (w *Instance) access(d *Node, server int, from, to engine.Stamp) (allowed, lacking bool) {
	if d.access == nil {
		return true, false
	}
	for _, p := range w.accessPeriods[:w.naccess] {
		if p.node != d || !p.to.After(from) || to.Step > 0 && p.from.Step > to.Step {
			continue
		}
		allowed = allowed || p.allows[server]
		lacking = lacking || !p.allows[server]
	}
	return allowed, lacking
}

// judgeAccess checks that an upgraded binary had access, and that no connection of a
// server-id was served after it had lost its access.
func (w *Instance) judgeAccess(c *Client) {
	if c.Node.access == nil {
		return
	}
	if allowed, _ := w.access(c.Node, c.Server, c.DialedAt, c.UpgradedAt); !allowed && !c.Phone {
		w.Blame("access", c, "upgraded without access")
	}
	if !w.exactTiming || c.Faults != 0 || c.CloseSent || w.aborted || w.closedForMemory(c) {
		return
	}
	for _, p := range w.accessPeriods[:w.naccess] {
		if p.node == c.Node && p.expiresAt > 0 && p.ending == c.Server {
			w.judgeExpiry(c, p)
		}
		if p.node != c.Node || p.allows[c.Server] {
			continue
		}
		// From the end of the change to p, or from the upgrade, to the next change.
		since, until := w.inForce(p), p.to
		if since.Step == 0 || c.UpgradedAt.After(since) {
			since = c.UpgradedAt
		}
		if !until.After(since) || until.At == since.At || c.endedAt.Step != 0 && since.After(c.endedAt) {
			continue
		}
		if late := c.ClosedAt.At - since.At; (!c.Closed || late > w.MaxDelay(c)) && (until.Step == 0 || until.At-since.At > w.MaxDelay(c)) {
			w.Blame("access", c, "closed %d ms after its server-id had lost its access (closed: %t); want %d at most", late/1e6, c.Closed, w.MaxDelay(c)/1e6)
		}
	}
}

// judgeExpiry checks that c was closed when its server-id expired, if no other list came
// before or soon after that.
func (w *Instance) judgeExpiry(c *Client, p accessPeriod) {
	for _, o := range w.accessPeriods[:w.naccess] {
		if o.node == p.node && o.from.Step > p.from.Step && (o.from.At < p.expiresAt || o.allows[c.Server] && o.from.At <= p.expiresAt+w.MaxDelay(c)) {
			return
		}
	}
	if c.UpgradedAt.At >= p.expiresAt || c.endedAt.Step != 0 && c.endedAt.At <= p.expiresAt {
		return
	}
	if late := c.ClosedAt.At - p.expiresAt; !c.Closed || late > w.MaxDelay(c) {
		w.Blame("access", c, "its server-id has expired, and it was closed %d ms later (closed: %t); want %d at most", late/1e6, c.Closed, w.MaxDelay(c)/1e6)
	}
}

// inForce returns the time from which only p was in force: the end of the change to it.
func (w *Instance) inForce(p accessPeriod) (since engine.Stamp) {
	for _, o := range w.accessPeriods[:w.naccess] {
		if o.node == p.node && o.from.Step < p.from.Step && o.to.Step > since.Step {
			since = o.to
		}
	}
	return since
}

// refusedForAccess reports whether c may have been refused over HTTP because of its access.
func (w *Instance) refusedForAccess(c *Client) bool {
	_, lacking := w.access(c.Node, c.Server, c.DialedAt, c.ServedAt)
	return lacking && !c.Phone
}

// closedForAccess reports whether c may have been closed because of its access.
func (w *Instance) closedForAccess(c *Client) bool {
	_, lacking := w.access(c.Node, c.Server, c.DialedAt, c.ClosedAt)
	return lacking
}

// coverAccess marks the coverage goals of access.
func (w *Instance) coverAccess(c *Client) {
	if c.Node.access == nil {
		return
	}
	e := w.Engine
	e.Sometimes(sawVerifierGone, c.Status == 503 && c.verifierGone)
	e.Sometimes(sawNoAccess, c.Status == 403 && c.Kind == AsIs)
	if c.Reason != noAccessReason {
		return
	}
	_, lacking := w.access(c.Node, c.Server, c.UpgradedAt, c.UpgradedAt)
	e.Sometimes(sawAccessLost, !lacking && !c.Phone)
	e.Sometimes(sawAccessLostLate, lacking && !c.Phone)
	e.Sometimes(sawAccessLostPhone, c.Phone && len(c.Flow(0).Got) > 0)
}
