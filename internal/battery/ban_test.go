package battery

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// operate posts a request of an operator to the private listener, and returns the answer.
func (n *node) operate(path, content string) (got struct{ Binaries, Phones int }) {
	n.t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+n.private+path, strings.NewReader(content))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("X-Pyrycode-Operator", "1")
	resp, err := operator.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		n.t.Fatalf("%s %s: %s %s (%v)", path, content, resp.Status, body, err)
	}
	if err := json.Unmarshal(body, &got); err != nil {
		n.t.Fatal(err)
	}
	return got
}

// Clients of a hundred addresses connect again and again as fast as they can. An operator
// bans their network: from the answer on none of them is accepted, all that were
// connected are closed, and others notice nothing.
func TestRow52ABanHoldsInAReconnectStorm(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MaxConns, c.MaxPending = 20_000, 20_000 })
	h := n.pair()
	storm := dose(100, 500)
	given(t, "%d binaries and as many phones of 127.9.0.0/16 that redial without a pause", storm)
	var banned, stop atomic.Bool
	var accepted, refused, late atomic.Int64
	var clients sync.WaitGroup
	for i := range 2 * storm {
		path, id, from := "/v1/server", fmt.Sprint("s", i/2), fmt.Sprintf("127.9.%d.%d", i/2/200, 1+i/2%200)
		if i%2 == 1 {
			path = "/v1/client"
		}
		clients.Go(func() {
			for !stop.Load() {
				was := banned.Load()
				conn, resp, err := n.dial(path, id, from)
				switch {
				case err == nil:
					accepted.Add(1)
					if was {
						late.Add(1)
					}
					_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
					_, _, _ = conn.ReadMessage()
					conn.Close()
				case resp != nil && resp.StatusCode == http.StatusForbidden:
					refused.Add(1)
					time.Sleep(5 * time.Millisecond) // deployed clients wait a second at least
				}
			}
		})
	}
	n.until("the storm is there", func() bool { return accepted.Load() > int64(4*storm) })
	got := n.operate("/bans", `{"what":"127.9.0.0/16","for":"1h","why":"storm"}`)
	banned.Store(true)
	before := accepted.Load()
	n.until("all of them are refused", func() bool { return refused.Load() > int64(8*storm) })
	if late.Load() > 0 {
		t.Errorf("%d clients were accepted that had dialled after the ban", late.Load())
	}
	n.connected(1, 1)
	t.Logf("accepted %d before the ban, closed by it %d binaries and %d phones, refused %d", before, got.Binaries, got.Phones, refused.Load())
	n.operate("/bans/lift", `{"what":"127.9.0.0/16"}`)
	again := accepted.Load()
	n.until("they are accepted again", func() bool { return accepted.Load() > again })
	stop.Store(true)
	clients.Wait()
	h.check()
}
