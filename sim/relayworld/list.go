package relayworld

import (
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// list lists connections, graces and bans, as the operators' commands do, and checks what
// must hold while connections come and go.
func (w *Instance) list(d *Node, arg int) {
	s := relay.Selector{}
	switch arg % 6 {
	case 1:
		s.Kind = []relay.Kind{relay.KindBinary, relay.KindPhone}[arg/6%2]
	case 2:
		s.Server = wire.ServerID(Servers[arg/6%MaxServers])
	case 3:
		s.State = []relay.ConnState{relay.ConnServing, relay.ConnJoined, relay.ConnParked, relay.ConnInGrace, relay.ConnClosing}[arg/6%5]
	case 4:
		s.Match = func(id wire.ServerID) bool { return id != wire.ServerID(Servers[0]) }
	}
	last := uint64(0)
	for more := true; more; {
		var page []relay.Connection
		page, more = d.Relay.Connections(s, last, 2)
		for _, c := range page {
			if c.Number <= last {
				w.Engine.Fail("list", "connection %d is listed after %d", c.Number, last)
			}
			last = c.Number
			w.checkListed(s, c)
		}
	}
	sample := d.Relay.Sample(s)
	w.Engine.Sleep(time.Duration(arg%3) * time.Second)
	top := sample.Top([]relay.Order{relay.ByRate, relay.ByBytes, relay.ByWaiting}[arg/3%3], 5)
	for _, c := range top {
		w.checkListed(relay.Selector{Kind: s.Kind, Server: s.Server}, c) // its state may have changed
		if c.Rate.BytesIn < 0 || c.Rate.BytesOut < 0 || c.Rate.FramesIn < 0 || c.Rate.FramesOut < 0 {
			w.Engine.Fail("list", "connection %d has the rate %+v", c.Number, c.Rate)
		}
	}
	seen := map[wire.ServerID]bool{}
	d.Relay.Graces(func(g relay.Grace) {
		if seen[g.Server] {
			w.Engine.Fail("list", "%s is listed twice in grace", g.Server)
		}
		seen[g.Server] = true
	})
	now := w.Engine.Time()
	for _, b := range d.Relay.Bans() {
		if key, err := relay.ParseBanKey(b.Key.String()); err != nil || key != b.Key {
			w.Engine.Fail("list", "the key of a ban is %v, and its text is that of %v, %v", b.Key, key, err)
		}
		if got, ok := d.Relay.BanOf(b.Key); !ok && b.Until.After(now) {
			w.Engine.Fail("list", "a listed ban until %v is not found; got %+v", b.Until, got)
		}
	}
	if peaks := d.Relay.TakePeaks(); peaks.Binaries < 0 || peaks.Phones < 0 {
		w.Engine.Fail("list", "the peaks are %+v", peaks)
	}
}

// checkListed checks that a listed connection is one that s selects, with values that are
// possible.
func (w *Instance) checkListed(s relay.Selector, c relay.Connection) {
	if s.Kind != "" && c.Kind != s.Kind || s.Server != "" && c.Server != s.Server || s.Match != nil && !s.Match(c.Server) {
		w.Engine.Fail("list", "%+v is listed; it is not selected", c)
	}
	now := w.Engine.Time()
	if c.Since.After(now) || c.Heard.After(now) || c.Waiting < 0 || c.Phones < 0 {
		w.Engine.Fail("list", "%+v is listed at %v", c, now)
	}
	if c.Kind == relay.KindPhone && c.Conn != "" && w.owner(string(c.Conn)) == 0 {
		w.Engine.Fail("list", "a phone is listed with the conn-id %s, which no phone has", c.Conn)
	}
}
