package wire

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// claimTestKey returns a key that depends on n only.
func claimTestKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), n))
}

func TestAClaimKeyIsForOneHostServerIDAndTime(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_123)
	signed := SignClaimKey(claimTestKey(1), "relay.example.com", "s1", now)
	for _, tt := range []struct {
		name, host, id string
		now            time.Time
		want           string
	}{
		{"as signed", "relay.example.com", "s1", now, ""},
		{"with a port, in capitals", "Relay.Example.COM:8443", "s1", now, ""},
		{"a little later", "relay.example.com", "s1", now.Add(ClaimKeyWindow), ""},
		{"a little earlier", "relay.example.com", "s1", now.Add(-ClaimKeyWindow), ""},
		{"too late", "relay.example.com", "s1", now.Add(ClaimKeyWindow + 1), "is the clock right?"},
		{"too early", "relay.example.com", "s1", now.Add(-ClaimKeyWindow - 1), "is the clock right?"},
		{"another host", "relay2.example.com", "s1", now, "not over this host"},
		{"another server-id", "relay.example.com", "s2", now, "not over this host"},
	} {
		k, err := ParseClaimKey(signed)
		if err != nil {
			t.Fatal(err)
		}
		err = k.Check(tt.host, ServerID(tt.id), tt.now)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
}

func TestAClaimKeyOfAnotherFormIsRefused(t *testing.T) {
	good := strings.Split(SignClaimKey(claimTestKey(1), "h", "s1", time.UnixMilli(1)), ".")
	with := func(i int, text string) string {
		parts := append([]string{}, good...)
		parts[i] = text
		return strings.Join(parts, ".")
	}
	for value, want := range map[string]string{
		"v1":                            "must be v1.KEY.TIME.SIGNATURE",
		with(0, "v2"):                   "must be v1.KEY.TIME.SIGNATURE",
		strings.Join(good, ".") + ".x":  "must be v1.KEY.TIME.SIGNATURE",
		with(1, ""):                     "its key must be 32 bytes",
		with(1, good[1]+"="):            "its key must be 32 bytes",
		with(1, good[3]):                "its key must be 32 bytes",
		with(2, "-1"):                   "its time must be",
		with(2, "99999999999999999999"): "its time must be",
		with(2, "1.5"):                  "must be v1.KEY.TIME.SIGNATURE",
		with(3, good[1]):                "its signature must be 64 bytes",
	} {
		if k, err := ParseClaimKey(value); err == nil || !k.IsZero() || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want %q", value, k, err, want)
		}
	}
	if k, err := ParseClaimKey(""); err != nil || !k.IsZero() {
		t.Errorf("no header: %+v, %v", k, err)
	}
}

// A change of any part of a header, or another key, makes it invalid.
func TestAForgedClaimKeyIsRefused(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	rapid.Check(t, func(t *rapid.T) {
		host, id := rapid.StringMatching(`[a-z]{1,9}(\.[a-z]{1,9}){0,2}`).Draw(t, "host"), rapid.StringN(1, 40, 256).Draw(t, "id")
		parts := strings.Split(SignClaimKey(claimTestKey(1), host, ServerID(id), now), ".")
		switch rapid.IntRange(0, 2).Draw(t, "part") {
		case 0:
			parts[1] = base64.RawURLEncoding.EncodeToString(claimTestKey(2).Public().(ed25519.PublicKey))
		case 1:
			parts[2] = "1800000000001"
		case 2:
			sig, _ := base64.RawURLEncoding.DecodeString(parts[3])
			sig[rapid.IntRange(0, len(sig)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			parts[3] = base64.RawURLEncoding.EncodeToString(sig)
		}
		k, err := ParseClaimKey(strings.Join(parts, "."))
		if err != nil {
			t.Fatal(err)
		}
		if k.Check(host, ServerID(id), now) == nil {
			t.Fatal("it is accepted")
		}
	})
}

func FuzzParseClaimKey(f *testing.F) {
	f.Add(SignClaimKey(claimTestKey(1), "h", "s1", time.UnixMilli(1)))
	f.Fuzz(func(t *testing.T, value string) {
		k, err := ParseClaimKey(value)
		if err != nil || value == "" {
			return
		}
		if len(k.Public) != ed25519.PublicKeySize || k.Time < 0 {
			t.Fatalf("%q gives %+v", value, k)
		}
		_ = k.Check("h", "s1", time.UnixMilli(k.Time))
	})
}
