package config

import (
	"net/netip"
	"strings"
	"testing"
)

func TestTrustedProxiesAreNotEverybody(t *testing.T) {
	const fours = "must be a network or an address: this one has the addresses of IPv4 in it"
	for _, tt := range []struct{ networks, want string }{
		{"::ffff:127.0.0.0/104", ""}, {"10.0.0.0/8,192.168.0.0/16,172.16.0.0/12,fc00::/7,fe80::/10,100.64.0.0/10", ""},
		{"2001:db8::/32,2606:4700::/32,192.0.2.7,::1", ""}, {"16.0.0.0/4", ""}, {"16.0.0.0/4,16.0.0.0/4,17.0.0.0/8", ""},
		{"0.0.0.0/0", "must not include so many addresses"}, {"::/0", "must not include so many addresses"}, {"::ffff:0:0/96", "must not include so many addresses"},
		{"::ffff:0.0.0.0/97", "must not include so many addresses"}, {"0.0.0.0/1", "must not include so many addresses"}, {"2000::/3", "must not include so many addresses"}, {"2000::/6", "must not include so many addresses"},
		{"0.0.0.0/4,16.0.0.0/4", "must not include so many addresses: together"}, {"0.0.0.0/1,128.0.0.0/1", "must not include so many addresses"},
		{"::ffff:0.0.0.0/100,16.0.0.0/4", "must not include so many addresses: together"}, {"2000::/7,2200::/7", "must not include so many addresses: together"},
		{"::/64", fours}, {"::/1", fours}, {"::ffff:0:0/95", fours},
		{"fe80::1%eth0", "must be a network or an address without a zone"}, {" 10.0.0.1", "must be a network or an address"}, {"", ""}, {"10.0.0.1,", "must be a network or an address"},
	} {
		c := Default()
		if tt.networks != "" {
			c.TrustedProxies = strings.Split(tt.networks, ",")
		}
		got := ""
		for _, p := range c.Check() {
			got = p.Rule
		}
		if tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%q: %q; want %q", tt.networks, got, tt.want)
		}
	}
	for network, caller := range map[string]string{
		"::ffff:127.0.0.0/104": "127.0.0.1", "::ffff:10.0.0.1": "10.0.0.1", "10.0.0.0/8": "::ffff:10.1.2.3", "::ffff:10.1.2.3/128": "10.1.2.3",
	} {
		if !ParseNetworks([]string{network}).Contain(netip.MustParseAddr(caller)) {
			t.Errorf("%s does not trust %s", network, caller)
		}
	}
}
