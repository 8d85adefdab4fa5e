package daemon

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// The log shows a fingerprint that depends on a key, and the same that the page and
// the command tell; in full only if that is asked for.
func TestServerIDsAreFingerprintsInTheLog(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	line := func(c config.Config, id string) string {
		show, err := showID(c)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		newLoggerOf(&out, "json", slog.LevelInfo, show).With("a", 1).Info("x", "server_id", wire.Printable(id, logText))
		w := httptest.NewRecorder()
		fingerprintHandler(show)(w, httptest.NewRequest("POST", "/debug/fingerprint", strings.NewReader(id+"\n")))
		if told := strings.TrimSpace(w.Body.String()); !strings.Contains(out.String(), `"server_id":"`+told+`"`) {
			t.Errorf("the page tells %q; the log has %s", told, &out)
		}
		return out.String()
	}
	c := config.Default()
	secret := "secret-" + strings.Repeat("x", 200)
	a, b := line(c, secret), line(c, secret)
	if strings.Contains(a, "secret") || a == b {
		t.Errorf("two processes log %s and %s; want different fingerprints and no server-id", a, b)
	}
	c.LogKeyFile = key
	a, b = line(c, secret), line(c, secret)
	if strings.Contains(a, "secret") || !strings.Contains(a, Fingerprint([]byte("0123456789abcdef"), secret)) || a[strings.Index(a, "server_id"):] != b[strings.Index(b, "server_id"):] {
		t.Errorf("two processes with one key log %s and %s; want the same fingerprint", a, b)
	}
	if Fingerprint([]byte("a"), "id") == Fingerprint([]byte("a"), "id2") || Fingerprint([]byte("a"), "id") == Fingerprint([]byte("b"), "id") {
		t.Error("a fingerprint does not depend on both key and server-id")
	}
	c.LogKeyFile, c.LogServerIDs = "", "full"
	if a = line(c, "secret"); !strings.Contains(a, `"server_id":"secret"`) {
		t.Errorf("with --log-server-ids full the log has %s", a)
	}
	for _, tt := range []struct {
		method, content string
		status          int
	}{{"GET", "x", http.StatusMethodNotAllowed}, {"POST", "", http.StatusBadRequest}, {"POST", strings.Repeat("x", wire.MaxServerID+1), http.StatusBadRequest}} {
		w := httptest.NewRecorder()
		fingerprintHandler(func(s string) string { return s })(w, httptest.NewRequest(tt.method, "/debug/fingerprint", strings.NewReader(tt.content)))
		if w.Code != tt.status {
			t.Errorf("%s of %d bytes: %d; want %d", tt.method, len(tt.content), w.Code, tt.status)
		}
	}
}
