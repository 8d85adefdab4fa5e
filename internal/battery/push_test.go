package battery

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// slowFCM is a push service that takes 0.2 s for each wake, and the values of the
// options that make a relay use it.
func slowFCM(t *testing.T) (credentials, endpoint string) {
	t.Helper()
	fcm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			_, _ = io.WriteString(w, `{"access_token":"x","expires_in":3600}`)
			return
		}
		time.Sleep(200 * time.Millisecond)
		_, _ = io.WriteString(w, `{"name":"projects/p/messages/m"}`)
	}))
	t.Cleanup(fcm.Close)
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	account, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "pyry-1", "private_key_id": "x", "token_uri": fcm.URL + "/token", "client_email": "x@example.test",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})),
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "fcm.json")
	if err := os.WriteFile(file, account, 0o600); err != nil {
		t.Fatal(err)
	}
	return "@" + file, fcm.URL
}

// Server-ids of one address ask for wakes all the time, of an FCM that takes a
// while. A binary of another address gets each of its wakes through.
func TestRow39WakesOfOneAddressLeaveRoomForOthers(t *testing.T) {
	credentials, endpoint := slowFCM(t)
	n := start(t, func(c *config.Config) {
		c.FCMCredentials, c.FCMEndpoint, c.LogServerIDs = credentials, endpoint, "full"
	})
	h := n.pair()
	ids, wakes := dose(100, 800), dose(5, 7)
	given(t, "%d server-ids of one address", ids)
	ask := func(b *wstest.Conn) {
		_ = b.WriteMessage(wstest.Text, []byte(`{"push_wake":{"platform":"fcm","token":"x"}}`))
	}
	done := make(chan struct{})
	var ended []chan struct{}
	for i := range ids {
		b, _, err := n.dial("/v1/server", fmt.Sprint("many-", i), "127.0.0.2")
		if err != nil {
			t.Fatal(err)
		}
		drained(b)
		end := make(chan struct{})
		ended = append(ended, end)
		go func() {
			defer close(end)
			defer b.Close()
			for {
				ask(b)
				select {
				case <-done:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		}()
	}
	const refused = `pyrycode_relay_push_wakes_total{outcome="limited_in_flight"}`
	n.until("the wakes are refused", func() bool { return n.metric(refused) > 100 })
	victim, _, err := n.dial("/v1/server", "victim", "127.0.0.3")
	if err != nil {
		t.Fatal(err)
	}
	drained(victim)
	for range wakes {
		ask(victim)
		time.Sleep(dose(50*time.Millisecond, 2*time.Second))
	}
	n.until(fmt.Sprintf("all %d wakes of the victim are sent", wakes), func() bool { return n.logged(`"push_wake_sent"`, `"victim"`) == wakes })
	close(done)
	for _, end := range ended {
		<-end
	}
	victim.Close()
	h.check()
}

// logged returns how many records of the relay's log have all of parts.
func (n *node) logged(parts ...string) (count int) {
	for line := range strings.Lines(n.log.String()) {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			count++
		}
	}
	return count
}
