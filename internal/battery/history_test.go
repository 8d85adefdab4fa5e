package battery

import (
	"io"
	"net/http"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// newPeers returns the history of the clients of a relay with this configuration.
func newPeers(c *config.Config) *history.Peers {
	p := history.NewPeers()
	p.Add(history.Event{Kind: history.NodeUp, Node: 1})
	p.Add(history.Event{Kind: history.LimitsBegan, Node: 1, Data: &history.Limits{
		Phones: c.MaxPhones, Conns: c.MaxConns, PerAddress: c.MaxConnsPerAddress, Burst: int(c.Burst),
		PhoneOutbox: int(c.PhoneOutbox), Grace: int64(c.Grace),
	}})
	return p
}

// judge runs the checkers of sim/history on what the clients of n saw. All clients that
// dial with n.dial are in its history. Those that n.raw and attacks open are strangers:
// history.CheckPeers says what is not judged then. Call judge when the row is over.
func (n *node) judge() {
	if n.t.Failed() || n.t.Skipped() {
		return
	}
	var wrong []history.Violation
	// A counter follows the frame that it counts: another scrape may have it.
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		scraped := n.scrape()
		wrong = history.CheckPeers(n.peers.Read(history.Settings{Room: 1}))
		if len(wrong) == 0 || wrong[0].Invariant != "metrics" || !scraped || time.Now().After(end) {
			break
		}
	}
	for _, v := range wrong[:min(len(wrong), 5)] {
		n.t.Errorf("history: %s: %s", v.Invariant, v.Detail)
	}
}

// scrape adds a scrape to the history, if the relay still runs.
func (n *node) scrape() bool {
	resp, err := operator.Get("http://" + n.private + "/metrics")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return false
	}
	n.peers.Add(history.Event{Kind: history.Scraped, Node: 1, Data: history.ParseMetrics(string(page))})
	return true
}
