package cli

import (
	"testing"

	"pgregory.net/rapid"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "7": 7, "7B": 7, "256KiB": 256 << 10, "4MiB": 4 << 20, "1GiB": 1 << 30, "-1KiB": -1 << 10} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "KiB", "1kb", "1 KiB", "1.5MiB", "99999999999GiB", "9223372036854775808", "0x10"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d; want an error", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := Size(rapid.Int().Draw(t, "size"))
		if got, err := parseSize(s.String()); err != nil || got != s {
			t.Fatalf("parseSize(%s) = %d, %v; want %d", s, got, err, s)
		}
	})
}

func TestAFieldGivesItsOptionTheName(t *testing.T) {
	for field, want := range map[string]string{"Grace": "grace", "MaxConns": "max-conns", "URL": "url", "TLSCert": "tls-cert", "PerIPv6": "per-ipv6"} {
		if got := nameOf(field); got != want {
			t.Errorf("%s: %s; want %s", field, got, want)
		}
	}
}
