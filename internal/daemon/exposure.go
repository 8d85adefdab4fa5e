package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/prometheus/exporter-toolkit/web"
)

// machine is what a configuration must fit.
type machine struct {
	root       bool
	files      uint64 // that the process may open
	filesKnown bool
}

// leastFiles is the fewest open files that a relay is any use with.
const leastFiles = spareFiles + 32

func thisMachine() machine {
	m := machine{root: isRoot()}
	m.files, m.filesKnown = maxFiles()
	return m
}

// reach is who can get to an address.
type reach int

const (
	reachLoopback reach = iota // this machine
	reachPrivate               // a network that is nobody else's
	reachPublic                // anybody; also an address of which this is not known
)

// reachOf is the reach of host:port. All addresses of a machine, which is
// what no host or 0.0.0.0 means, count as public, in a container too: from
// within it cannot be seen who gets there.
func reachOf(address string) reach {
	host, port, err := net.SplitHostPort(address)
	if _, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || host == "localhost" {
		return reachLoopback // what is no address at all is told elsewhere
	}
	a, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return reachPublic
	case a.Unmap().IsLoopback():
		return reachLoopback
	case a.Unmap().IsPrivate(), a.IsLinkLocalUnicast():
		return reachPrivate
	}
	return reachPublic
}

// lowPort reports whether address needs a privilege to listen on.
func lowPort(address string) bool {
	_, port, err := net.SplitHostPort(address)
	n, perr := strconv.Atoi(port)
	return err == nil && perr == nil && n > 0 && n < 1024
}

// exposure looks at who can reach what.
func (v *validator) exposure(c Config, m machine) {
	hasTLS := c.Domain != "" || c.TLSCert != ""
	public := reachOf(c.Listen) != reachLoopback
	if public && !hasTLS && !c.Insecure {
		v.add("listen", c.Listen, "must not be reachable from other machines without TLS",
			"give --domain or --tls-cert and --tls-key; or --insecure if a proxy in front has TLS; or listen on 127.0.0.1")
	}
	if hasTLS && c.Insecure {
		v.add("insecure", "true", "contradicts --domain and --tls-cert", "leave it out: the listener has TLS")
	}
	if reachOf(c.MetricsListen) == reachPublic && c.WebConfigFile == "" {
		v.add("metrics-listen", c.MetricsListen, "must not be public without a password",
			"give --web.config.file, or listen on 127.0.0.1 or an address of a private network")
	}
	if c.WebConfigFile != "" {
		if err := web.Validate(c.WebConfigFile); err != nil {
			v.add("web.config.file", c.WebConfigFile, fmt.Sprintf("must be a file that can be used (%v)", err),
				"its format is at https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md")
		}
	}
	needsRoot := lowPort(c.Listen) || lowPort(c.MetricsListen) || c.Domain != "" && lowPort(c.HTTPListen)
	if m.root && public && !needsRoot && !c.AllowRoot {
		v.add("allow-root", "false", "must be true for a relay that runs as root and can be reached from other machines",
			"run it as another user (User= or DynamicUser= in systemd, --user in Docker): it needs nothing of root's")
	}
}

// proxies looks at who may say who is calling.
func (v *validator) proxies(c Config) {
	for _, text := range c.TrustedProxies {
		switch p, err := parseProxy(text); {
		case err != nil:
			v.add("trusted-proxies", text, "must be a network or an address", "for example 10.0.0.0/8 or 192.0.2.7")
		case p.Bits() == 0:
			v.add("trusted-proxies", text, "must not be everybody: all addresses could be made up", "name the proxies' network")
		}
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		v.add("proxy-protocol", "true", "needs --trusted-proxies", "name the addresses that the PROXY headers come from; others are refused")
	}
}
