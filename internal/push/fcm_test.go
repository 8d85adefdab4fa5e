package push

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// overHTTP returns a Sender that sends to a server on this machine, which is both FCM and
// the token endpoint.
func overHTTP(t *testing.T, h http.HandlerFunc) (s *Sender, log *bytes.Buffer) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	log = new(bytes.Buffer)
	s = New(Config{Endpoint: srv.URL, Log: slog.New(slog.NewTextHandler(log, nil))})
	s.Use(account(t, "token_uri", srv.URL+"/token"))
	t.Cleanup(func() {
		s.Drain(t.Context())
		noCanary(t, log.String())
	})
	return s, log
}

func TestWhatGoesOverTheWire(t *testing.T) {
	s, log := overHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/token":
			r.Body = io.NopCloser(bytes.NewReader(body))
			if err := checkGrant(r); err != nil {
				t.Error(err)
			}
			fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, canaryAccess)
		case "/v1/projects/pyry-1/messages:send":
			if r.Method != "POST" || r.Header.Get("Authorization") != "Bearer "+canaryAccess || r.Header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("%s with %v", r.Method, r.Header)
			}
			want := `{"message":{"token":"` + canaryToken + `","data":{"type":"push_wake"},"android":{"priority":"HIGH"}}}`
			if string(body) != want {
				t.Errorf("got  %s\nwant %s", body, want)
			}
			io.WriteString(w, "{\n  \"name\": \"projects/pyry-1/messages/0:1500415314455276%31bd1c9631bd1c96\"\n}\n")
		default:
			t.Errorf("%s was asked for", r.URL)
		}
	})
	if err := s.Wake(netip.Addr{}, "s", wire.PushWake{Platform: "fcm", Token: canaryToken}); err != nil {
		t.Fatal(err)
	}
	s.Drain(t.Context())
	if want := " fcm_message_id=0:1500415314455276%31bd1c9631bd1c96\n"; !strings.HasSuffix(log.String(), want) {
		t.Errorf("the log is\n%swant%s", log, want)
	}
}

// checkGrant checks that a request for a token is one that Google accepts.
func checkGrant(r *http.Request) error {
	if err := r.ParseForm(); err != nil || r.PostForm.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		return fmt.Errorf("the form is %v, %v", r.PostForm, err)
	}
	parts := strings.Split(r.PostForm.Get("assertion"), ".")
	if len(parts) != 3 {
		return fmt.Errorf("the assertion has %d parts", len(parts))
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(&key().PublicKey, crypto.SHA256, sum[:], signature); err != nil {
		return err
	}
	var claims struct {
		Iss, Scope, Aud string
		Iat, Exp        int64
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return err
	}
	if now := time.Now().Unix(); claims.Iss != "relay@pyry-1.iam.gserviceaccount.com" || claims.Scope != scope ||
		claims.Aud != "http://"+r.Host+"/token" || claims.Iat > now || claims.Exp <= now {
		return fmt.Errorf("the claims are %s", text)
	}
	return nil
}

func TestServersThatFail(t *testing.T) {
	good := func(w http.ResponseWriter) { io.WriteString(w, `{"access_token":"t"}`) }
	cut := func(w http.ResponseWriter) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		c.Close()
	}
	elsewhere := func(w http.ResponseWriter) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
	for _, tt := range []struct {
		name       string
		token, fcm func(http.ResponseWriter)
		want       string
	}{
		{"FCM redirects", good, elsewhere, "FCM answers 307"},
		{"the token endpoint redirects", elsewhere, nil, "the token endpoint answers 307"},
		{"FCM cuts", good, cut, "FCM cannot be reached: it closed the connection"},
		{"the token endpoint cuts", cut, nil, "the token endpoint cannot be reached: it closed the connection"},
		{"the answer is not HTTP", good, func(w http.ResponseWriter) {
			c, _, _ := w.(http.Hijacker).Hijack()
			io.WriteString(c, "CANARY\r\n\r\n")
			c.Close()
		}, "FCM cannot be reached: connection failed"},
		{"the header has no end", good, func(w http.ResponseWriter) { w.Header().Set("X", strings.Repeat("CANARY", 1<<17)) }, "FCM cannot be reached: connection failed"},
		{"the body has no end", good, func(w http.ResponseWriter) {
			for range 64 {
				if _, err := io.WriteString(w, strings.Repeat("CANARY", 1<<14)); err != nil {
					return
				}
			}
		}, "FCM answers 200 without the message's name: check for a proxy in between"},
		{"the body is cut", good, func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, `{"name":"CANARY`)
		}, "FCM answers 200 without the message's name: check for a proxy in between"},
		{"a token that is none", func(w http.ResponseWriter) { io.WriteString(w, `{"access_token":"CANARY\n"}`) }, nil, "FCM cannot be reached: connection failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // a second attempt waits
			s, log := overHTTP(t, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/token":
					tt.token(w)
				case "/elsewhere":
					t.Error("the redirect was followed")
				default:
					tt.fcm(w)
				}
			})
			if err := s.Wake(netip.Addr{}, "s", wire.PushWake{Platform: "fcm", Token: canaryToken}); err != nil {
				t.Fatal(err)
			}
			s.Drain(t.Context())
			if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "msg=push_wake_send_failed ") || !strings.Contains(got, `err="`+tt.want+"\"\n") {
				t.Errorf("the log is\n%swant err=%q", got, tt.want)
			}
		})
	}
}
