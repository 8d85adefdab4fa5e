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

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// idKey is the key of the log for the server-id that a record is about. No other
// value in the log has a server-id in it.
const idKey = "server_id"

// logText is how many bytes of a server-id a record is made from.
const logText = 128

// Fingerprint returns what stands for a server-id in the log. A server-id is the only
// secret that peers have; without the key nobody can tell the server-id, or even try
// one, from its fingerprint.
func Fingerprint(key []byte, id string) string {
	return fingerprint(key, wire.Printable(id, logText))
}

// fingerprint is Fingerprint of a text that is printable and cut already.
func fingerprint(key []byte, text string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return "fp-" + hex.EncodeToString(mac.Sum(nil)[:8])
}

// showID returns the function that says how the log shows a server-id, given as
// wire.Printable makes it. With --log-server-ids full it is the identity. In other
// cases it returns a fingerprint, with the key in --log-key-file or with a random
// one.
func showID(cfg config.Config) (func(text string) string, error) {
	if cfg.LogServerIDs == config.FullServerIDs {
		return func(text string) string { return text }, nil
	}
	var key []byte
	if cfg.LogKeyFile == "" {
		key = make([]byte, sha256.Size)
		_, _ = rand.Read(key) // it does not fail
	} else {
		var err error
		if key, err = config.ReadLogKey(cfg.LogKeyFile); err != nil { // it has changed since Check
			return nil, fmt.Errorf("--log-key-file %s: %w", cfg.LogKeyFile, err)
		}
	}
	return func(text string) string { return fingerprint(key, text) }, nil
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

// fingerprintHandler answers a POST of a server-id with what the log shows for it.
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
