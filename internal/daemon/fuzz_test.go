package daemon

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// FuzzOptionTexts gives any text to any option: a value or an error that says
// a rule, and Check names what is wrong without a panic.
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
		c := DefaultConfig()
		if err := setText(reflect.ValueOf(&c).Elem().Field(at), text); err != nil {
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
