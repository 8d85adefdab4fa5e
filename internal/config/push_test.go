package config

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestCredentialsThatAreNoneAreRefusedWithoutThem(t *testing.T) {
	huge := filepath.Join(t.TempDir(), "huge")
	if err := os.WriteFile(huge, make([]byte, maxCredentials+1), 0o600); err != nil {
		t.Fatal(err)
	}
	const fix = "; give the service account's JSON from the Firebase console, or @ and the path of a file with it"
	for value, want := range map[string]string{
		"CANARY":     "must be one JSON object with only strings as values",
		`{"type":1}`: "must be one JSON object with only strings as values",
		`{"type":"service_account","project_id":"CANARY"}`: "must have a field project_id that is the id of a project",
		"@" + huge: fmt.Sprintf("must name a file that can be read (%q: it is longer than %d bytes)", huge, maxCredentials),
		"@":        `must name a file that can be read ("": no such file or directory)`,
	} {
		c := Default()
		c.FCMCredentials = value
		err := &Error{Problems: c.Check()}
		if got := err.Error(); got != "--fcm-credentials (withheld): "+want+fix {
			t.Errorf("%.20s: %s\nwant %s", value, got, want)
		}
	}
}
