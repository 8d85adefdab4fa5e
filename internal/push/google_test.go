package push

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Secrets that no log may contain. Every test searches its log for them.
const (
	canaryToken  = "CANARY-device:token"
	canaryAccess = "CANARY-access"
)

// key signs for the service account of the tests.
var key = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// accountFile returns the file of a service account. kv has names and values of fields that
// replace those of a valid file. The value nil removes a field.
func accountFile(kv ...any) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key())
	if err != nil {
		panic(err)
	}
	fields := map[string]any{
		"type": "service_account", "project_id": "pyry-1", "private_key_id": "k1",
		"private_key":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"client_email": "relay@pyry-1.iam.gserviceaccount.com",
		"token_uri":    "https://oauth2.test/token",
		"auth_uri":     "https://accounts.test/auth", "universe_domain": "googleapis.com",
	}
	for i := 0; i < len(kv); i += 2 {
		fields[kv[i].(string)] = kv[i+1]
		if kv[i+1] == nil {
			delete(fields, kv[i].(string))
		}
	}
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return text
}

func account(t *testing.T, kv ...any) *Credentials {
	t.Helper()
	c, err := ParseCredentials(accountFile(kv...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// google is FCM and the token endpoint without a network. Each answers a request with its
// next function, and repeats the last one.
type google struct {
	wakes int // wakes so far
	t     *testing.T
	log   bytes.Buffer
	*Sender

	mu             sync.Mutex
	fcm, tokens    []answer
	asked, granted int
}

type answer func(*http.Request) (*http.Response, error)

// startGoogle returns a google with a Sender. If tokens or fcm is nil, that endpoint answers
// with success.
func startGoogle(t *testing.T, tokens, fcm []answer) *google {
	t.Helper()
	g := &google{t: t, tokens: tokens, fcm: fcm}
	if tokens == nil {
		g.tokens = []answer{token(3600)}
	}
	if fcm == nil {
		g.fcm = []answer{sentAs("projects/pyry-1/messages/0:15%31")}
	}
	g.Sender = New(Config{Endpoint: "https://fcm.example.com", Log: slog.New(slog.NewTextHandler(&g.log, nil)), Transport: g})
	g.Use(account(t))
	t.Cleanup(func() { noCanary(t, g.log.String()) })
	return g
}

func noCanary(t *testing.T, text string) {
	t.Helper()
	if strings.Contains(text, "CANARY") || strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, "eyJ") {
		t.Errorf("a secret is in:\n%s", text)
	}
}

func (g *google) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		g.t.Error(err)
	}
	g.mu.Lock()
	all, n := g.fcm, &g.asked
	if r.URL.Host == "oauth2.test" {
		all, n = g.tokens, &g.granted
	}
	a := all[min(*n, len(all)-1)]
	*n++
	g.mu.Unlock()
	return a(r)
}

// total returns the number of requests to each.
func (g *google) total() (bought, asked int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.granted, g.asked
}

func says(status int, body string, header ...string) answer {
	return func(r *http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	}
}

func token(expires int) answer {
	return says(200, fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, canaryAccess, expires))
}

func sentAs(name string) answer { return says(200, fmt.Sprintf(`{"name":%q}`, name)) }

// hang answers when the context of the request ends.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, fmt.Errorf("%s: %w", r.URL, context.Cause(r.Context()))
}

func breaks(err error) answer {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// wake asks for a wake of id, each time from another address.
func (g *google) wake(id wire.ServerID) error {
	g.wakes++
	return g.wakeFrom(netip.AddrFrom4([4]byte{10, 0, byte(g.wakes >> 8), byte(g.wakes)}), id)
}

func (g *google) wakeFrom(from netip.Addr, id wire.ServerID) error {
	return g.Wake(from, id, wire.PushWake{Platform: "fcm", Token: canaryToken})
}

// finish waits for all admitted wakes and returns the log.
func (g *google) finish() string {
	g.t.Helper()
	g.Drain(g.t.Context())
	return g.log.String()
}

// value returns the value of a counter or a gauge.
func value(m prometheus.Metric) float64 {
	var v dto.Metric
	if err := m.Write(&v); err != nil {
		panic(err)
	}
	return v.GetCounter().GetValue() + v.GetGauge().GetValue()
}

// counted checks the number of wakes of each outcome. Outcomes that want lacks must have none.
func (g *google) counted(want map[outcome]int) {
	g.t.Helper()
	for _, o := range outcomes {
		if got := value(g.metrics.wakes[o]); got != float64(want[o]) {
			g.t.Errorf("push_wakes_total{outcome=%q} is %v; want %d; the log:\n%s", o, got, want[o], g.log.String())
		}
	}
}
