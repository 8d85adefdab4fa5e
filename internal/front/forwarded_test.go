package front

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

func TestWhoIsCalling(t *testing.T) {
	trusted := config.ParseNetworks([]string{"10.0.0.0/8", "192.0.2.7", "fd00::/8"})
	for _, tt := range []struct {
		peer string
		xff  []string
		want string
	}{
		{"203.0.113.9:1", nil, "203.0.113.9"},
		{"203.0.113.9:1", []string{"198.51.100.1"}, "203.0.113.9"},
		{"10.1.2.3:1", nil, "10.1.2.3"},
		{"10.1.2.3:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[::ffff:10.1.2.3]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.1.2.3:1", []string{"6.6.6.6, 198.51.100.1"}, "198.51.100.1"},
		{"10.1.2.3:1", []string{"6.6.6.6", "198.51.100.1"}, "198.51.100.1"},
		{"10.1.2.3:1", []string{"6.6.6.6, 198.51.100.1 , 192.0.2.7"}, "198.51.100.1"},
		{"10.1.2.3:1", []string{"6.6.6.6, 198.51.100.1", "192.0.2.7,10.9.9.9"}, "198.51.100.1"},
		{"10.1.2.3:1", []string{"10.9.9.9, 192.0.2.7"}, "10.9.9.9"},
		{"10.1.2.3:1", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"10.1.2.3:1", []string{"[2001:db8::1]:4711"}, "2001:db8::1"},
		{"10.1.2.3:1", []string{"2001:db8::1"}, "2001:db8::1"},
		{"[fd00::1]:1", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"10.1.2.3:1", []string{"198.51.100.1, unknown"}, "10.1.2.3"},
		{"10.1.2.3:1", []string{"198.51.100.1,, 192.0.2.7"}, "198.51.100.1"},
		{"10.1.2.3:1", []string{"198.51.100.1,"}, "198.51.100.1"},
		{"10.1.2.3:1", []string{"198.51.100.1", " , ,"}, "198.51.100.1"},
		{"10.1.2.3:1", []string{"198.51.100.1, \"192.0.2.7\""}, "10.1.2.3"},
		{"10.1.2.3:1", []string{""}, "10.1.2.3"},
		{"@", []string{"198.51.100.1"}, "invalid IP"},
	} {
		req := &http.Request{RemoteAddr: tt.peer, Header: http.Header{"X-Forwarded-For": tt.xff}}
		if got := clientAddr(trusted, req).Unmap().String(); got != tt.want {
			t.Errorf("peer %s with %q is %s; want %s", tt.peer, tt.xff, got, tt.want)
		}
	}
}

func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{"198.51.100.1", "a, 10.0.0.1", ",", "[::1]:1, 10.0.0.2", "10.0.0.1,10.0.0.2\x00"} {
		f.Add(s, "203.0.113.5, 10.0.0.9")
	}
	trusted := config.ParseNetworks([]string{"10.0.0.0/8"})
	f.Fuzz(func(t *testing.T, forged, seen string) {
		// Whatever a client writes, what the trusted proxy appends wins.
		req := &http.Request{RemoteAddr: "10.0.0.9:1", Header: http.Header{"X-Forwarded-For": {forged + ", 203.0.113.5"}}}
		if got := clientAddr(trusted, req); got != netip.MustParseAddr("203.0.113.5") {
			t.Errorf("after %q the client is %s", forged, got)
		}
		// And from a stranger nothing counts.
		req = &http.Request{RemoteAddr: "203.0.113.6:1", Header: http.Header{"X-Forwarded-For": {forged, seen}}}
		if got := clientAddr(trusted, req); got != netip.MustParseAddr("203.0.113.6") {
			t.Errorf("a stranger with %q is %s", forged, got)
		}
	})
}
