package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

func TestTheHeaderOfProbeIsTheOneThatTheRelayChecks(t *testing.T) {
	name := filepath.Join(t.TempDir(), "key")
	made, err := readClaimKey(name)
	if err != nil {
		t.Fatal(err)
	}
	read, err := readClaimKey(name)
	if err != nil || !read.key.Equal(made.key) {
		t.Fatalf("the key that was read is another one: %v", err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has the mode %v; want 0600", info.Mode())
	}
	now := time.Now()
	var last int64
	for _, host := range []string{"relay.example.com", "Relay.Example.com:8443", "[::1]:8080", "[::1]"} {
		k, err := wire.ParseClaimKey(read.header(host, "s1", now))
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Check(host, "s1", now); err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if k.Time <= last {
			t.Errorf("a header with the time %d after one with %d", k.Time, last)
		}
		last = k.Time
	}
}

func TestAFileWithoutAnEd25519KeyIsRefused(t *testing.T) {
	name := filepath.Join(t.TempDir(), "key")
	for text, want := range map[string]string{"": "no PEM block", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n": "asn1"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readClaimKey(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}
