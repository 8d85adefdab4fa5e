package daemon

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// idKey is the key of the server-id in log records. No other value in the log contains
// a server-id.
const idKey = "server_id"

// logText is the number of bytes of a server-id that go into a log record.
const logText = 128

// Fingerprint returns the text that stands for a server-id in the log. A server-id is
// the only secret of the peers. Without the key, a reader of the log cannot compute the
// server-id from its fingerprint, nor check a guess.
func Fingerprint(key []byte, id string) string {
	return fingerprint(key, wire.Printable(id, logText))
}

// fingerprint is Fingerprint for a text that wire.Printable has returned.
func fingerprint(key []byte, text string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return fingerprintPrefix + hex.EncodeToString(mac.Sum(nil)[:fingerprintBytes])
}

// A fingerprint has this prefix and so many bytes as hexadecimal digits.
const (
	fingerprintPrefix = "fp-"
	fingerprintBytes  = 8
)

// isFingerprint reports whether text has the form of a fingerprint.
func isFingerprint(text string) bool {
	digits, ok := strings.CutPrefix(text, fingerprintPrefix)
	b, err := hex.DecodeString(digits)
	return ok && err == nil && len(b) == fingerprintBytes
}

// showID returns the function from a server-id, after wire.Printable, to its form in the
// log. With --log-server-ids full that function is the identity. Otherwise it returns a
// fingerprint, with the key in --log-key-file or a random one.
func showID(cfg config.Config) (func(text string) string, error) {
	if cfg.LogServerIDs == config.FullServerIDs {
		return func(text string) string { return text }, nil
	}
	var key []byte
	if cfg.LogKeyFile == "" {
		key = make([]byte, sha256.Size)
		_, _ = rand.Read(key) // it never fails
	} else {
		var err error
		if key, err = config.ReadLogKey(cfg.LogKeyFile); err != nil { // it has changed since Check
			return nil, fmt.Errorf("--log-key-file %s: %w", cfg.LogKeyFile, err)
		}
	}
	return func(text string) string { return fingerprint(key, text) }, nil
}

// showServerID returns a server-id in the form of the log.
func (p *process) showServerID(id wire.ServerID) string {
	return p.showID(wire.Printable(string(id), logText))
}

// fingerprints replaces server-ids in log records.
func fingerprints(show func(string) string, next func([]string, slog.Attr) slog.Attr) func([]string, slog.Attr) slog.Attr {
	return func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == idKey {
			return slog.String(idKey, show(a.Value.String()))
		}
		return next(groups, a)
	}
}

// fingerprintHandler answers a POST of a server-id with its form in the log.
func fingerprintHandler(show func(string) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := io.ReadAll(io.LimitReader(r.Body, wire.MaxServerID+1))
		switch id = bytes.TrimRight(id, "\r\n"); {
		case r.Method != http.MethodPost:
			w.Header().Set("Allow", "POST")
			answer(w, http.StatusMethodNotAllowed, "method: must be POST, with the server-id as content: it must not be in a URL")
		case err != nil || len(id) == 0 || len(id) > wire.MaxServerID:
			answer(w, http.StatusBadRequest, fmt.Sprintf("content: must be a server-id of 1 to %d bytes", wire.MaxServerID))
		default:
			answer(w, http.StatusOK, show(wire.Printable(string(id), logText)))
		}
	}
}
