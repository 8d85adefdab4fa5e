package history

import (
	"slices"
	"testing"
)

// clusterOf is a history of two processes, with a binary
// at the first and a phone at the second, which is joined at the first.
func clusterOf(events ...Event) *script {
	s := begin("bp")
	s.add(Event{Kind: NodeUp, Node: 2}, Event{Kind: MayServe, Node: 1, Text: "s1", N: 1}, Event{Kind: Registered, Node: 1, Conn: 2})
	return s.add(frame(2, 1, 1)...).add(events...)
}

func TestCluster(t *testing.T) {
	drain := Event{Kind: DrainBegan, Node: 1}
	later := Event{Kind: Froze, Node: 2} // an event after a pause
	for name, c := range map[string]struct {
		events    []Event
		invariant string
	}{
		"a drain tells the phone":                {append([]Event{drain}, closed(2, 1012, reasonShutdown)...), ""},
		"a drain tells the phone late":           {append([]Event{drain, later}, closed(2, 1012, reasonShutdown)...), "drain"},
		"a drain with the code of one relay":     {append([]Event{drain}, closed(2, 1001, reasonShutdown)...), "close code"},
		"a lease is lost without a cause":        {closed(1, 1012, reasonLost), "lost"},
		"a lease is lost after failed calls":     {append([]Event{{Kind: Unanswered, Node: 1}, {Kind: Unanswered, Node: 1}}, closed(1, 1012, reasonLost)...), ""},
		"a frame after the lease":                {append([]Event{{Kind: MayServe, Node: 1, Text: "s1"}}, frame(2, 1, 2)...), "fence"},
		"a way that breaks without a fault":      {closed(2, 1012, reasonBroken), "broken"},
		"a way that breaks after a fault":        {append([]Event{{Kind: TroubleBegan}}, closed(2, 1012, reasonBroken)...), ""},
		"the directory is written at rest":       {[]Event{{Kind: QuietBegan}, {Kind: Written, Node: 1}, {Kind: QuietEnded}}, "silence"},
		"a second binary, and the first is gone": {closed(1, 4409, reasonInUse), "spurious 4409"},
	} {
		t.Run(name, func(t *testing.T) {
			var s *script
			for _, e := range c.events {
				if s == nil {
					s = clusterOf()
				}
				if e.Kind == later.Kind {
					s.ms += 5000
					continue
				}
				s.add(e)
			}
			wrong := CheckCluster(Read(s.Events(), Settings{Shared: true, Latency: 1e6, Room: 1 << 10, Probe: 3e9, Linger: 2e9, Heartbeat: 30e9,
				Cluster: &Cluster{Exact: true, Session: 5e9, Call: 2e9, Hold: 10e9, Window: 1 << 10, Heartbeat: 2e9}}))
			// The histories end before most connections do.
			wrong = slices.DeleteFunc(wrong, func(v Violation) bool { return v.Invariant == "goodbye" })
			if c.invariant == "" && len(wrong) > 0 || c.invariant != "" && (len(wrong) == 0 || wrong[0].Invariant != c.invariant) {
				t.Errorf("broken: %v; want %q", wrong, c.invariant)
			}
		})
	}
}

func TestMetricsOfAClusterAreCompared(t *testing.T) {
	for series, by := range map[string]float64{
		"":                                 0,
		"cluster_claims":                   1,
		"cluster_streams":                  1,
		"cluster_held_claims":              1,
		"cluster_session":                  1,
		"cluster_nodes":                    1,
		"cluster_claim_losses_total fence": 1,
		"cluster_claim_refusals_total":     2,
		"cluster_silent_node_refusals_total claim": 1,
		"cluster_broken_streams_total node":        1,
		"cluster_ended_links_total record":         1,
		"cluster_round_trip_seconds count":         1e6,
	} {
		t.Run(series, func(t *testing.T) {
			m := atRestMetrics(1, 1)
			m[prefix+"cluster_nodes"] = 1
			if series != "" {
				m[prefix+series] += by
			}
			s := begin("bp")
			for conn := range 2 {
				s.add(Event{Kind: CloseSent, Conn: conn + 1, N: 4000}).add(closed(conn+1, 4000, "")...)
			}
			r := Read(s.add(Event{Kind: Scraped, Node: 1, Data: m}).Events(), Settings{Room: 1, Shared: true, Cluster: &Cluster{Exact: true, Heartbeat: 2e9}})
			r.checkMetrics()
			if wrong := len(r.violations) > 0; wrong != (by > 0) {
				t.Errorf("broken: %v", r.violations)
			}
		})
	}
}
