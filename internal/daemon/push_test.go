package daemon

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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// serviceAccount returns the file of a service account with a token server on this
// machine.
func serviceAccount(t *testing.T, tokenURI string) string {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "pyry-1", "private_key_id": "CANARY-id", "private_key": string(key),
		"client_email": "CANARY@pyry-1.iam.gserviceaccount.com", "token_uri": tokenURI,
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// startPush runs a daemon with h as its FCM, and returns a binary of it.
func startPush(t *testing.T, drain time.Duration, h http.HandlerFunc) (*running, *wstest.Conn) {
	t.Helper()
	google := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			io.WriteString(w, `{"access_token":"CANARY-access","expires_in":3600}`)
			return
		}
		h(w, r)
	}))
	t.Cleanup(google.Close)
	file := filepath.Join(t.TempDir(), "fcm.json")
	if err := os.WriteFile(file, []byte(serviceAccount(t, google.URL+"/token")), 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, t.Context(), func(c *config.Config) {
		c.FCMCredentials, c.FCMEndpoint, c.Drain = "@"+file, google.URL, drain
	})
	t.Cleanup(func() {
		if log := d.log.String(); strings.Contains(log, "CANARY") || strings.Contains(log, "PRIVATE") {
			t.Errorf("a secret is in the log:\n%s", log)
		}
	})
	b := d.dial("/v1/server")
	d.until("the binary is counted", func() bool { return d.p.relay.Counts().Binaries == 1 })
	return d, b
}

func askWake(t *testing.T, b *wstest.Conn, token string) {
	t.Helper()
	if err := b.WriteMessage(wstest.Text, fmt.Appendf(nil, `{"push_wake":{"platform":"fcm","token":%q}}`, token)); err != nil {
		t.Fatal(err)
	}
}

// outcomes is push_wakes_total, without the zeroes.
func (d *running) outcomes() string {
	_, _, page := get(d.t, "http://"+d.private+"/metrics")
	var all []string
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, `pyrycode_relay_push_wakes_total{outcome="`); ok && !strings.HasSuffix(rest, " 0") {
			all = append(all, strings.Replace(rest, `"}`, "", 1))
		}
	}
	return strings.Join(all, ", ")
}

func TestABinaryWakesItsPhone(t *testing.T) {
	var mu sync.Mutex
	var got []string
	release := make(chan struct{})
	d, b := startPush(t, 10*time.Second, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		got = append(got, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")+" "+string(body))
		mu.Unlock()
		<-release
		io.WriteString(w, `{"name":"projects/pyry-1/messages/m1"}`)
	})
	if !strings.Contains(d.log.String(), `msg="push is on" project=pyry-1`) {
		t.Error("it does not say that push is on")
	}
	askWake(t, b, "CANARY-device")
	d.until("FCM is asked", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 1 })
	b.Close() // the wake goes on
	d.until("the binary is gone", func() bool { return d.p.relay.Counts().Binaries == 0 })
	close(release)
	d.until("it is sent", func() bool { return d.outcomes() == "sent 1" })
	want := `POST /v1/projects/pyry-1/messages:send Bearer CANARY-access {"message":{"token":"CANARY-device","data":{"type":"push_wake"},"android":{"priority":"HIGH"}}}`
	if len(got) != 1 || got[0] != want {
		t.Errorf("FCM got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	if log := d.log.String(); strings.Count(log, "push_wake_sent server_id=s token_fp=dffb68b1 duration=") != 1 || !strings.Contains(log, "fcm_message_id=m1") {
		t.Errorf("the log is\n%s", log)
	}
}

func TestWhatIsNotAdmittedIsSaidAndTheBinaryStays(t *testing.T) {
	d, b := startPush(t, 10*time.Second, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"name":"projects/pyry-1/messages/m"}`)
	})
	for range 8 {
		askWake(t, b, "CANARY-device")
	}
	askWake(t, b, "")
	d.until("all are counted", func() bool { return d.outcomes() == "limited_rate 2, malformed 1, sent 6" })
	for want, n := range map[string]int{
		`envelope_dropped server_id=s err="this server-id sends too many push wakes"`:                            2,
		`envelope_dropped server_id=s err="push_wake must have the platform fcm and a token of 1 to 4096 bytes"`: 1,
	} {
		if strings.Count(d.log.String(), want) != n {
			t.Errorf("want %d times %s; the log is\n%s", n, want, d.log)
		}
	}
	if got := d.p.relay.Counts().Binaries; got != 1 {
		t.Errorf("%d binaries; want 1", got)
	}
}

func TestWithoutCredentialsPushIsOffAndSaidOnce(t *testing.T) {
	d := start(t, t.Context(), nil)
	b := d.dial("/v1/server")
	d.until("the binary is counted", func() bool { return d.p.relay.Counts().Binaries == 1 })
	askWake(t, b, "CANARY-device")
	d.until("it is counted", func() bool { return d.outcomes() == "off 1" })
	if n := strings.Count(d.log.String(), `msg="push is off: every push wake is dropped; PYRYCODE_RELAY_FCM_CREDENTIALS turns it on"`); n != 1 {
		t.Errorf("it says %d times that push is off; the log is\n%s", n, d.log)
	}
}

// A new key in the file is used after a reload; a file that is none changes
// nothing.
func TestAReloadReadsTheServiceAccountAgain(t *testing.T) {
	var mu sync.Mutex
	var bought []string
	google := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/token") {
			mu.Lock()
			bought = append(bought, r.URL.Path)
			mu.Unlock()
			io.WriteString(w, `{"access_token":"CANARY-access","expires_in":3600}`)
			return
		}
		io.WriteString(w, `{"name":"projects/pyry-1/messages/m"}`)
	}))
	t.Cleanup(google.Close)
	file := filepath.Join(t.TempDir(), "fcm.json")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(serviceAccount(t, google.URL+"/token-1"))
	r := startReloading(t, func(c *config.Config) { c.FCMCredentials, c.FCMEndpoint = "@"+file, google.URL })
	b := r.dial("/v1/server")
	r.until("the binary is counted", func() bool { return r.p.relay.Counts().Binaries == 1 })
	wake := func(n int) {
		askWake(t, b, "CANARY-device")
		r.until("it is sent", func() bool { return r.outcomes() == fmt.Sprintf("sent %d", n) })
	}
	wake(1)
	r.reload(func(*config.Config) {})
	wake(2)
	write("CANARY")
	r.reload(func(*config.Config) {})
	r.wantMetrics("config_last_reload_successful 0")
	r.wantLog(`msg="reload: refused, nothing has changed" err="--fcm-credentials (withheld): must be one JSON object`)
	wake(3)
	write(serviceAccount(t, google.URL+"/token-2"))
	r.reload(func(*config.Config) {})
	r.wantMetrics("config_last_reload_successful 1")
	r.wantLog(`msg="reload: push wakes are sent with another key" project=pyry-1`)
	wake(4)
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(bought, " "); got != "/token-1 /token-2" {
		t.Errorf("tokens were bought from %s; want one with each key", got)
	}
	if log := r.log.String(); strings.Contains(log, "CANARY") || strings.Contains(log, "PRIVATE") || strings.Count(log, "another key") != 1 {
		t.Errorf("a secret is in the log, or another key is told more than once:\n%s", log)
	}
}

// An exit waits for a wake as long as for everything else, and no longer.
func TestAnExitDoesNotWaitForAWakeThatHangs(t *testing.T) {
	for name, tt := range map[string]struct {
		drain time.Duration
		again bool
		why   string
	}{
		"time is up":    {50 * time.Millisecond, false, `why="time is up"`},
		"second signal": {time.Hour, true, `why="second signal: terminated"`},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{})
			d, b := startPush(t, tt.drain, func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // or the server does not see the client go
				close(asked)
				<-r.Context().Done()
			})
			askWake(t, b, "CANARY-device")
			<-asked
			d.signals <- syscall.SIGTERM
			b.Close()
			if tt.again {
				d.until("it says what it waits for", func() bool {
					return strings.Contains(d.log.String(), "sockets_open=false requests_open=false wakes_open=true")
				})
				d.signals <- syscall.SIGTERM
			}
			if err := d.end(); err != nil {
				t.Errorf("Run() = %v; want nil", err)
			}
			for _, want := range []string{tt.why, `push_wake_send_failed server_id=s token_fp=dffb68b1`, `err="the relay ended before FCM answered"`} {
				if strings.Count(d.log.String(), want) != 1 {
					t.Errorf("want once %s; the log is\n%s", want, d.log)
				}
			}
		})
	}
}

func TestAnExitWaitsForAWakeThatIsSlow(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	d, b := startPush(t, time.Hour, func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-release
		io.WriteString(w, `{"name":"projects/pyry-1/messages/m"}`)
	})
	askWake(t, b, "CANARY-device")
	<-asked
	d.signals <- syscall.SIGTERM
	b.Close()
	d.until("only the wake is left", func() bool {
		return strings.Contains(d.log.String(), "sockets_open=false requests_open=false wakes_open=true")
	})
	close(release)
	if err := d.end(); err != nil {
		t.Errorf("Run() = %v; want nil", err)
	}
	log := d.log.String()
	if sent, drained := strings.Index(log, "push_wake_sent"), strings.Index(log, "msg=drained"); sent < 0 || drained < sent {
		t.Errorf("the log is\n%s", log)
	}
}
