package config

import (
	"net/netip"
	"testing"
)

// FuzzTrustedProxies holds what is made of networks to the standard library.
func FuzzTrustedProxies(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "10.1.2.3/8", "192.0.2.7", "2001:db8::/32", "::ffff:10.0.0.1", "fe80::1%eth0", "0.0.0.0/0", "x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseNetwork(text)
		if err != nil {
			return
		}
		if !p.IsValid() || p != p.Masked() {
			t.Errorf("%q is taken for %v", text, p)
		}
		if a, err := netip.ParseAddr(text); err == nil && !ParseNetworks([]string{text}).Contain(a) {
			t.Errorf("%q does not trust itself", text)
		}
	})
}
