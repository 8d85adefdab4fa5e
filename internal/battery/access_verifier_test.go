package battery

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// Clients of one address claim made-up server-ids all the time, and the operator's
// service takes a while for each question. A daemon of another address gets in.
func TestRow49MadeUpServerIDsDoNotKeepDaemonsOut(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		time.Sleep(200 * time.Millisecond)
		_, _ = fmt.Fprintf(w, `{"allow":%t}`, !strings.Contains(string(body), `"made-up-`))
	}))
	t.Cleanup(service.Close)
	n := start(t, func(c *config.Config) { c.Access, c.AccessURL = "url", service.URL })
	h := n.pair()
	clients := dose(300, 1000)
	given(t, "%d clients of one address; the service takes 0.2 s", clients)
	done := make(chan struct{})
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			k := 0
			every(done, 20*time.Millisecond, func() error {
				k++
				if c, _, err := n.dial("/v1/server", fmt.Sprintf("made-up-%d-%d", i, k), "127.0.0.2"); err == nil {
					t.Error("a made-up server-id gets in")
					c.Close()
				}
				return nil
			})
		})
	}
	n.until("the clients are refused", func() bool {
		return n.metric(`pyrycode_relay_access_questions_total{result="busy"}`) > 0
	})
	for i := range dose(5, 20) {
		begun := time.Now()
		c, resp, err := n.dial("/v1/server", fmt.Sprint("member-", i), "127.0.0.3")
		if err != nil {
			t.Errorf("a member: %v, %v", err, resp)
			continue
		}
		c.Close()
		if took := time.Since(begun); took > newcomerWait() {
			t.Errorf("a member waited %v", took)
		}
	}
	close(done)
	all.Wait()
	h.check()
}
