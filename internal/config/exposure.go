package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// exposureLevel says which machines can reach an address.
type exposureLevel int

const (
	reachLoopback exposureLevel = iota // this machine
	reachPrivate                       // the machines of a private network
	reachPublic                        // all machines, or not known
)

// reachOf returns the exposure of host:port, or of unix:PATH. No host and 0.0.0.0 mean all addresses of
// a machine and count as public. So they do in a container, because a process in it
// cannot know which machines reach it.
func reachOf(address string) exposureLevel {
	host, port, err := net.SplitHostPort(address)
	if _, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || host == "localhost" {
		return reachLoopback // address reports an invalid one
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

// MoreExposed reports whether more machines may reach the listener at a than the one
// at b.
func MoreExposed(a, b string) bool { return reachOf(a) > reachOf(b) }

// needsRoot reports whether c listens on a port that needs a privilege, which root and
// users with CAP_NET_BIND_SERVICE have.
func (c Config) needsRoot() bool {
	return slices.ContainsFunc(c.listeners(), func(l listener) bool { return lowPort(l.address) })
}

// lowPort reports whether address needs a privilege to listen on.
func lowPort(address string) bool {
	_, port, err := net.SplitHostPort(address)
	n, perr := strconv.Atoi(port)
	return err == nil && perr == nil && n > 0 && n < 1024
}

// exposure checks which machines can reach each listener.
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
	if c.WebConfigFile != "" {
		if _, err := c.LoadWeb(nil); err != nil {
			v.problems = append(v.problems, c.WebProblem(err))
		}
	} else if reachOf(c.MetricsListen) == reachPublic {
		v.add("metrics-listen", c.MetricsListen, "must not be public without a password",
			"give --web.config.file, or listen on 127.0.0.1 or an address of a private network")
	}
	if m.root && public && !c.needsRoot() && !c.AllowRoot {
		v.add("allow-root", "false", "must be true for a relay that runs as root and can be reached from other machines",
			"run it as another user (User= or DynamicUser= in systemd, --user in Docker): it needs no privilege of root")
	}
}

// listener is an address on which serve listens, with its option.
type listener struct{ option, address string }

// listeners returns every address on which serve listens.
func (c Config) listeners() []listener {
	all := []listener{{"listen", c.Listen}, {"metrics-listen", c.MetricsListen}}
	if c.Domain != "" && c.HTTPListen != "" {
		all = append(all, listener{"http-listen", c.HTTPListen})
	}
	if c.Clustered() {
		all = append(all, listener{"cluster-listen", c.ClusterListen})
	}
	return all
}

// apart checks that no two listeners have an address in common.
func (v *validator) apart(c Config) {
	all := c.listeners()
	for i, b := range all {
		for _, a := range all[:i] {
			switch {
			case !overlap(a.address, b.address):
				continue
			case a.address == b.address && a.option == "listen" && b.option == "metrics-listen":
				v.add(b.option, b.address, "must differ from --listen", "operators' pages are not for the public")
			default:
				v.add(b.option, b.address, fmt.Sprintf("must not overlap --%s %s: both have port %s of the same address", a.option, quoteIfOdd(a.address), portOf(b.address)), "choose another port for one of them")
			}
			break
		}
	}
}

// overlap reports whether two listeners have the same port and an address in common.
// The loopback addresses of IPv4 and IPv6 count as one, because localhost can mean
// either. Host names are not resolved.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	m, errM := strconv.ParseUint(portA, 10, 16)
	n, errN := strconv.ParseUint(portB, 10, 16)
	if errA != nil || errB != nil || errM != nil || errN != nil || m != n || m == 0 {
		return false
	}
	hostA, hostB = canonicalHost(hostA), canonicalHost(hostB)
	return hostA == hostB || hostA == "" || hostB == ""
}

// canonicalHost returns the same text for equal hosts: "" for all addresses, and
// 127.0.0.1 for loopback. Go treats 0.0.0.0, like [::], as all addresses of both
// families.
func canonicalHost(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	a, err := netip.ParseAddr(host)
	a = a.Unmap()
	switch {
	case err != nil && host == "localhost", err == nil && a == netip.IPv6Loopback():
		return "127.0.0.1"
	case err != nil:
		return host
	case a.IsUnspecified():
		return ""
	}
	return a.String()
}

// portOf returns the port of host:port as a number.
func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	n, _ := strconv.ParseUint(port, 10, 16)
	return strconv.FormatUint(n, 10)
}
