package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The command finds what the log shows for a server-id: by asking the relay, or with
// the key that the relay has.
func TestFingerprintFindsAServerIDInTheLog(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{nil, {"--log-key-file", key}, {"--log-server-ids", "full"}} {
		s := serveHere(t, args...)
		talk(t, s)
		asked := call(t.Context(), nil, "fingerprint", "--metrics-listen", s.private, "--server-id", "CANARY-server")
		if asked.code != done || !strings.Contains(s.page(t, "/debug/log"), `"server_id":"`+strings.TrimSpace(asked.stdout)+`"`) {
			t.Errorf("%v: the relay's log has no %+v", args, asked)
		}
		if full := asked.stdout == "CANARY-server\n"; full != (len(args) > 1 && args[1] == "full") {
			t.Errorf("%v: the log shows %q", args, asked.stdout)
		}
		lines := call(t.Context(), nil, "fingerprint", "--metrics-listen", s.private, "--server-id", "CANARY-server", "--log")
		if lines.code != done || !strings.Contains(lines.stdout, "server_claimed") || strings.Contains(lines.stdout, `"msg":"ready"`) {
			t.Errorf("%v: %+v; want the lines about the server-id", args, lines)
		}
		if other := call(t.Context(), nil, "fingerprint", "--metrics-listen", s.private, "--server-id", "another", "--log"); other.stdout != "" || other.code != done {
			t.Errorf("%v: of an unused server-id: %+v; want no line", args, other)
		}
		if len(args) > 1 && args[1] == key {
			if alone := call(t.Context(), nil, "fingerprint", "--server-id", "CANARY-server", "--log-key-file", key); alone.stdout != asked.stdout {
				t.Errorf("with the key it is %+v; want %q, as the relay says", alone, asked.stdout)
			}
		}
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{}, refused, "--server-id"},
		{[]string{"--server-id", "x", "--log-key-file", "/dev/null"}, failed, "--log-key-file /dev/null"},
		{[]string{"--server-id", "x", "--metrics-listen", "127.0.0.1:1"}, failed, "127.0.0.1:1"},
	} {
		if got := call(t.Context(), nil, append([]string{"fingerprint"}, tt.args...)...); got.code != tt.code || !strings.Contains(got.stderr, tt.want) {
			t.Errorf("%v: %+v; want %d and %q", tt.args, got, tt.code, tt.want)
		}
	}
}
