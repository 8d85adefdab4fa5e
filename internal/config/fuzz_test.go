package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
)

// FuzzTrustedProxies compares parsed networks with the standard library.
func FuzzTrustedProxies(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "10.1.2.3/8", "192.0.2.7", "2001:db8::/32", "::ffff:10.0.0.1", "fe80::1%eth0", "0.0.0.0/0", "x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseNetwork(text)
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

// FuzzOptionTexts gives any text to any option. The result is a value or an error with a
// rule, and Check must not panic.
func FuzzOptionTexts(f *testing.F) {
	for i, o := range Options() {
		f.Add(i, o.Default)
	}
	for i, s := range []string{"-1", "1e309", "NaN", "99999999999999999999", "256KiB", "9223372036854775807GiB", "1h1h", "::", "[::1]:80", "a,b,,", "\x00", "0.0.0.0/0", "https://EXAMPLE.com/x"} {
		f.Add(i, s)
	}
	f.Fuzz(func(t *testing.T, i int, text string) {
		all := Options()
		at := int(uint(i) % uint(len(all)))
		o := all[at]
		c := Default()
		if err := cli.SetText(reflect.ValueOf(&c).Elem().Field(at), text); err != nil {
			if err.Error() == "" {
				t.Errorf("--%s %q: an error that says nothing", o.Name, text)
			}
			return
		}
		for _, p := range c.check(machine{files: 1 << 20, filesKnown: true}, time.Now()) {
			if p.Option == "" || p.Rule == "" || p.Fix == "" {
				t.Errorf("--%s %q: problem %+v does not say option, rule and fix", o.Name, text, p)
			}
			if line := p.Error(); strings.ContainsAny(line, "\x00\x1b\n") || len(line) > 2000 {
				t.Errorf("--%s %q: problem is told as %q", o.Name, text, line)
			}
		}
	})
}
