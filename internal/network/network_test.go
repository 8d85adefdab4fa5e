package network

import (
	"fmt"
	"net/netip"
	"testing"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestAnAddressCountsInItsNetworks(t *testing.T) {
	for _, tt := range []struct{ a, want, charged string }{
		{"192.0.2.7", "192.0.2.7/32", "192.0.2.7"},
		{"::ffff:192.0.2.7", "192.0.2.7/32", "192.0.2.7"},
		{"2001:db8:1:2304::5", "2001:db8:1:2304::/64 2001:db8:1:2300::/56 2001:db8:1::/48", "2001:db8:1:2304::"},
		{"fe80::1%eth0", "fe80::/64 fe80::/56 fe80::/48", "fe80::"},
	} {
		ns := Of(addr(tt.a))
		got := ""
		for i := range ns.Len() {
			p, _ := ns.At(i)
			got += " " + p.String()
		}
		if got[1:] != tt.want {
			t.Errorf("%s counts in %s; want %s", tt.a, got[1:], tt.want)
		}
		if c := Charged(addr(tt.a)); c != addr(tt.charged) || Of(c) != ns {
			t.Errorf("%s is charged as %s; want %s, with the same networks", tt.a, c, tt.charged)
		}
	}
	if one, other := Of(netip.Addr{}), Of(netip.Addr{}); one != other || one.Len() != 1 {
		t.Error("addresses that are none do not share one network")
	}
}

// The /64s of one customer together have the limit of a few addresses, however many /64s the
// customer uses.
func TestTheNetworksOfOneCustomerShareALimit(t *testing.T) {
	const limit = 10
	for _, tt := range []struct {
		what, pattern string
		want          int
	}{
		{"one /64", "2001:db8:0:1::%x", limit},
		{"one /56", "2001:db8:0:1%02x::1", 2 * limit},
		{"one /48", "2001:db8:0:%x00::1", 4 * limit},
		{"one IPv4 address", "192.0.2.1", limit},
		{"an IPv4 /24", "192.0.2.%d", 200},
	} {
		var c Counts
		in := 0
		for i := range 200 {
			text := tt.pattern
			if text != "192.0.2.1" {
				text = fmt.Sprintf(text, i)
			}
			if _, full := c.Full(Of(addr(text)), limit); full {
				continue
			}
			c.Add(Of(addr(text)), 1)
			in++
		}
		if in != tt.want {
			t.Errorf("%s has %d; want %d", tt.what, in, tt.want)
		}
		if got := c.Sum(); got != in {
			t.Errorf("%s: the sum is %d; want %d", tt.what, got, in)
		}
	}
}

func TestTheLoadIsThatOfTheHeaviestNetwork(t *testing.T) {
	var c Counts
	for i := range 8 {
		c.Add(Of(addr(fmt.Sprintf("2001:db8:0:%x::1", i<<8))), 5) // eight /56s of one /48
	}
	c.Add(Of(addr("192.0.2.1")), 7)
	for a, want := range map[string]int{
		"2001:db8:0:100::1": 10, // 40 of the /48, and its share is 4
		"2001:db8:0:9::1":   10, // its own /56 has none
		"2001:db8:1::1":     0,
		"192.0.2.1":         7,
		"192.0.2.2":         0,
	} {
		if got := c.Load(Of(addr(a))); got != want {
			t.Errorf("%s: load %d; want %d", a, got, want)
		}
		if g := c.groups[Of(addr(a)).Narrowest()]; g != nil && (g.Load() != want || !g.In(Of(addr(a)).Narrowest())) {
			t.Errorf("%s: its group has load %d; want %d", a, g.Load(), want)
		}
	}
	for i := range 8 {
		c.Add(Of(addr(fmt.Sprintf("2001:db8:0:%x::1", i<<8))), -5)
	}
	c.Add(Of(addr("192.0.2.1")), -7)
	if len(c.groups) != 0 || len(c.networks) != 0 {
		t.Errorf("%v and %v are left of what has gone; want nothing", c.groups, c.networks)
	}
}

func TestAPrefixStandsForItsChargedNetwork(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7/24": "192.0.2.0/24", "192.0.2.7/32": "192.0.2.7/32", "::ffff:192.0.2.7/120": "192.0.2.0/24",
		"2001:db8::1/128": "2001:db8::/64", "2001:db8:1::/48": "2001:db8:1::/48",
	} {
		if got := ChargedPrefix(netip.MustParsePrefix(in)).String(); got != want {
			t.Errorf("%s: %s; want %s", in, got, want)
		}
	}
	if got := ChargedPrefix(netip.Prefix{}); got.IsValid() {
		t.Errorf("no prefix: %s; want none", got)
	}
}
