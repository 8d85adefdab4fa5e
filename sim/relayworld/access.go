package relayworld

import (
	"fmt"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/access"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// Access that operators change while the relay runs: the real list or the real tokens of
// internal/access, and a verifier in front of the list that is slow or gone.
//
// The subjects of a list are the server-ids, and those of a file of tokens are the tokens.
// Both have MaxServers of them.

// noAccessReason is the reason of a close because the server-id has lost its access.
const noAccessReason = "server-id has no access any more"

// accessWorld is the access of one process. Its fields are used by one task at a time, and
// are hidden from the race detector.
type accessWorld struct {
	w       *Instance
	node    *Node
	policy  *access.Policy
	expires time.Time // of the list in force; zero: it does not expire
	ending  int       // the subject that expires
	changes int       // lists with an expiry so far
	busy    bool      // a change has begun and not ended
	allows  [MaxServers]bool
}

// accessKinds are the values of the parameter access.
const (
	accessOff      = iota
	accessList     // the list decides immediately
	accessVerifier // the answer takes time, before and after the decision, or does not come
	accessTokens   // tokens decide, and each server-id is bound to one of them
)

// tokenNames are the tokens of binaries.
var tokenNames = [MaxServers]string{"token0", "token1", "token2"}

// tokens reports whether binaries need a token.
func (w *Instance) tokens() bool { return w.Run.Param("access", accessOff) == accessTokens }

// token returns the token of a binary, or "" if it needs none. Each connection of an actor
// may have another one.
func (c *Client) token() string {
	if c.Phone || !c.w.tokens() {
		return ""
	}
	return tokenNames[engine.Mix(uint64(c.Number))%MaxServers]
}

// subjects returns the names of the subjects of lists.
func (w *Instance) subjects() [MaxServers]string {
	if w.tokens() {
		return tokenNames
	}
	return Servers
}

// newAccess returns the access of a process that starts: every server-id has access. It
// returns nil if the run has none.
func (w *Instance) newAccess(d *Node, rt relay.Runtime) relay.Access {
	if w.Run.Param("access", accessOff) == accessOff {
		return nil
	}
	a := &accessWorld{w: w, node: d, policy: access.NewList(rt)}
	if w.tokens() {
		a.policy = access.NewTokens(rt)
	}
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
		c.record(history.Event{Kind: history.NotAsked})
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
func (a *accessWorld) verifierOf(c *Client) uint64 {
	w := a.w
	if c == nil || w.Healing.Get() || w.Run.Param("access", accessOff) != accessVerifier {
		return 0
	}
	return engine.Mix(uint64(c.Number)<<20 + uint64(w.Run.Param("noise", 0)))
}

// Claimed implements relay.Access.
func (a *accessWorld) Claimed(id wire.ServerID, grant string) bool {
	a.noteExpiry()
	return a.policy.Claimed(id, grant)
}

// Allowed implements relay.Access.
func (a *accessWorld) Allowed(id wire.ServerID, grant string) bool {
	a.noteExpiry()
	return a.policy.Allowed(id, grant)
}

// accessOf returns the subjects that a list allows, by the argument of an operation.
func accessOf(n int) (allows [MaxServers]bool) {
	for s := range allows {
		allows[s] = n%8&(1<<s) == 0
	}
	return allows
}

// changeAccess puts another list into force. In some of them one subject expires a few
// seconds later.
func (w *Instance) changeAccess(d *Node, n int) {
	if d.access == nil || w.Healing.Get() {
		return
	}
	after := [...]time.Duration{0, 3 * time.Second, 3 * time.Second, 20 * time.Second}[n/8%4]
	d.access.change(accessOf(n), after)
}

// allowAll gives access to all subjects, for the end of a run. No server-id is bound to a
// token after it.
func (w *Instance) allowAll(d *Node) {
	allow := func(n int) {
		for d.access != nil && !d.access.change(accessOf(n), 0) {
			w.Engine.Sleep(time.Second)
		}
	}
	if w.tokens() {
		allow(1<<MaxServers - 1) // a token that is gone loses its server-ids
	}
	allow(0)
}

// change puts a list into force. after is the time until one of its subjects expires, or
// 0. It reports false, and changes nothing, during another change.
func (a *accessWorld) change(allows [MaxServers]bool, after time.Duration) bool {
	if !a.begin(allows, after) {
		return false
	}
	text, kind := "# the list\n", access.ServerIDs
	for s, ok := range allows {
		if !ok {
			continue
		}
		if a.w.tokens() {
			kind = access.Tokens
			text += "token:" + access.SubjectOf(tokenNames[s]).String() + " name=" + tokenNames[s]
		} else {
			text += Servers[s]
		}
		if s == a.ending && !a.expires.IsZero() {
			text += " expires=" + access.FormatTime(a.expires)
		}
		text += "\n"
	}
	b, err := access.ParseBook([]byte(text), kind)
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
	if a.busy {
		return false
	}
	a.busy = true
	a.expires = time.Time{}
	expiresAt := int64(0)
	if after > 0 {
		a.changes++
		a.expires = a.w.Engine.Time().Add(after).Truncate(time.Second)
		if a.ending = a.changes % MaxServers; allows[a.ending] {
			expiresAt = int64(a.expires.Sub(engine.Epoch))
		}
	}
	a.record(allows, expiresAt)
	return true
}

// record records a list that comes into force.
//
//go:norace
func (a *accessWorld) record(allows [MaxServers]bool, expiresAt int64) {
	a.allows = allows
	list := &history.Access{Allows: map[string]bool{}, ExpiresAt: expiresAt}
	subjects := a.w.subjects()
	for s, ok := range allows {
		if list.Allows[subjects[s]] = ok; expiresAt > 0 && s == a.ending {
			list.Expires = subjects[s]
		}
	}
	a.w.Record(history.Event{Kind: history.AccessBegan, Node: a.node.N, Data: list})
}

//go:norace
func (a *accessWorld) end() { a.busy = false }

// noteExpiry records the first moment at which an expired subject can have lost its
// access.
func (a *accessWorld) noteExpiry() {
	if a.expired() {
		a.record(a.allows, 0)
	}
}

//go:norace
func (a *accessWorld) expired() bool {
	if a.expires.IsZero() || a.w.Engine.Time().Before(a.expires) {
		return false
	}
	a.expires = time.Time{}
	a.allows[a.ending] = false
	return true
}

// noteChanged records that the relay has closed what has lost its access: only the last
// list is in force.
func (a *accessWorld) noteChanged() {
	a.w.Record(history.Event{Kind: history.AccessSet, Node: a.node.N})
}

// accessGoals are the coverage goals of access.
var accessGoals = ConnGoals{
	{goals.Add("the verifier does not answer"), func(c *Client) bool { return c.Status == 503 && c.NotAsked }},
	{goals.Add("a binary has no access"), func(c *Client) bool {
		return c.Node.access != nil && (c.Status == 401 || c.Status == 403) && c.Kind == AsIs
	}},
	{goals.Add("a binary is refused because another token has claimed its server-id"), func(c *Client) bool {
		return c.Status == 403 && c.Kind == AsIs && c.w.hist.BoundToOther(c.Conn)
	}},
	{goals.Add("a binary loses its access"), func(c *Client) bool {
		return c.Reason == noAccessReason && !c.Phone && c.w.hist.HadAccess(c.Conn)
	}},
	{goals.Add("a binary loses its access between the answer and its slot"), func(c *Client) bool {
		return c.Reason == noAccessReason && !c.Phone && !c.w.hist.HadAccess(c.Conn)
	}},
	{goals.Add("a phone is closed because its server-id has lost its access"), func(c *Client) bool {
		return c.Reason == noAccessReason && c.Phone && c.Answers() > 0
	}},
}
