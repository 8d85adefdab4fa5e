package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAccessNeedsAFileThatIsUsable(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, tt := range []struct{ mode, file, want string }{
		{"open", "", ""},
		{"list", file("good", "s1\n"), ""},
		{"list", file("none", "# none\n"), ""},
		{"all", "", `--access "all": must be open, list, tokens or url; the default is open`},
		{"open", file("good", "s1\n"), "has no use with --access open"},
		{"list", "", `--access-file "": must be given with --access list`},
		{"list", file("bad", "s1\ns1\n"), "is not usable: line 2: the same entry as in line 1"},
		{"list", filepath.Join(dir, "missing"), "is not usable: "},
	} {
		c := Default()
		c.Access, c.AccessFile = tt.mode, tt.file
		var got []string
		for _, p := range c.Check() {
			got = append(got, p.Error())
		}
		if text := strings.Join(got, "\n"); (tt.want == "") != (got == nil) || !strings.Contains(text, tt.want) {
			t.Errorf("--access %s --access-file %s: %q; want %q", tt.mode, tt.file, text, tt.want)
		}
	}
}

func TestCheckSaysWhoMayUseTheRelay(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	name := filepath.Join(t.TempDir(), "access")
	for _, tt := range []struct{ listen, text, want string }{
		{":1", "", "--access is open: every client that can reach --listen :1"},
		{"127.0.0.1:1", "", ""},
		{":1", "s1\n", "is usable; entries: 1"},
		{":1", "# none\n", "has no entry: no binary can use the relay"},
		{":1", "s1\ns2 expires=2027-01-01\n", "entries that have expired: 1 of 2"},
	} {
		c := Default()
		c.Listen = tt.listen
		if tt.text != "" {
			c.Access, c.AccessFile = AccessList, name
			if err := os.WriteFile(name, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var f Findings
		f.access(c, now)
		got := strings.Join(append(append(f.Problems, f.Warnings...), f.Notes...), "\n")
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("--listen %s, %q: %q; want %q", tt.listen, tt.text, got, tt.want)
		}
	}
}
