package battery

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/access"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// Many clients claim server-ids about which the verifier never answers. A healthy pair, and
// claims about which it answers, are not delayed; neither is the drain.
func TestRow50AVerifierThatHangsDelaysNobodyElse(t *testing.T) {
	gone := make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), `"slow-`) {
			select {
			case <-gone:
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(w, `{"allow":true,"cache_seconds":300}`)
	}))
	t.Cleanup(service.Close)
	t.Cleanup(func() { close(gone) })
	n := start(t, func(c *config.Config) {
		c.Access, c.AccessURL, c.AccessURLTimeout, c.AccessURLFail = config.AccessURL, service.URL, 10*time.Second, "last"
	})
	h := n.pair()
	known := n.mustDial("/v1/server", "known") // the answer is kept from here on
	known.Close()
	claims := dose(100, 250)
	given(t, "%d claims wait for it", claims)
	var waiting sync.WaitGroup
	for i := range claims {
		waiting.Go(func() {
			if c, resp, err := n.dial("/v1/server", fmt.Sprint("slow-", i), fmt.Sprint("127.0.7.", 1+i)); err == nil {
				c.Close()
				t.Error("a claim about which there is no answer was upgraded")
			} else if resp != nil && resp.StatusCode != 503 {
				t.Errorf("it got %d; want 503", resp.StatusCode)
			}
		})
	}
	n.until("the claims wait", func() bool { return n.metric("pyrycode_relay_connections") >= float64(claims) })
	began := time.Now()
	n.mustDial("/v1/server", "known").Close()
	if took := time.Since(began); took > within() {
		t.Errorf("a claim with a known answer took %v; want at most %v", took, within())
	}
	h.check()
	began = time.Now()
	n.signals <- syscall.SIGTERM
	select {
	case <-n.ended:
	case <-time.After(patience):
		t.Fatal("the relay did not end")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the drain took %v with claims that wait for the verifier", took)
	}
	waiting.Wait()
}

// A list of very many server-ids costs a healthy pair nothing while it is read, and a claim
// next to nothing.
func TestRow51ALongListDelaysNobody(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access")
	size := dose(20_000, 100_000)
	given(t, "%d server-ids", size)
	write := func(first string) {
		var b strings.Builder
		fmt.Fprintf(&b, "# %s\n%s\n", first, first)
		for i := range size {
			b.WriteString(access.FormatLine(access.Line{Subject: access.SubjectOf(fmt.Sprint("user-", i)), Note: "a user"}))
		}
		b.WriteString("healthy\n")
		if err := os.WriteFile(file+".next", []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".next", file); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	n := start(t, func(c *config.Config) { c.Access, c.AccessFile = config.AccessList, file })
	h := n.pairOf("healthy")
	held := n.mustDial("/v1/server", "first")
	for i := range dose(2, 10) {
		write(fmt.Sprint("reload-", i))
		n.until("the list is in force", func() bool { return strings.Count(n.log.String(), "its content is in force") == i+1 })
	}
	if _, _, err := held.ReadMessage(); err == nil || !strings.Contains(err.Error(), "no access any more") {
		t.Errorf("a server-id that is no longer on the list: %v", err)
	}
	if _, resp, err := n.dial("/v1/server", "stranger", ""); err == nil || resp == nil || resp.StatusCode != 403 {
		t.Errorf("a stranger: %v; want 403", err)
	}
	n.mustDial("/v1/server", "user-7").Close()
	h.check()
}
