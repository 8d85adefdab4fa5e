package daemon

import (
	"net"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// URLs are the places of a relay that is ready, in the form in which programs on the same
// machine use them.
type URLs struct {
	Relay string // such as ws://127.0.0.1:8080 or wss://relay.example.com
	Pages string // the operators' pages, such as http://127.0.0.1:9090/; empty if no browser can open them
}

// banner writes the text of [Env.Banner] behind the records of the log.
func (p *process) banner() {
	if p.env.Banner == nil {
		return
	}
	public, private := p.addresses(p.front.Server), p.addresses(p.private)
	_, _ = p.logs.Write([]byte(p.env.Banner(urlsOf(p.cfg, public[0], private[0], p.front.HasTLS(), p.web.hasTLS())))) // it returns no error
}

// urlsOf returns the URLs of a relay that listens at two addresses.
func urlsOf(c config.Config, public, private net.Addr, publicTLS, privateTLS bool) URLs {
	u := URLs{Relay: "ws://" + localAddress(public)}
	if publicTLS {
		u.Relay = "wss://" + localAddress(public)
	}
	if c.Domain != "" {
		_, port, _ := net.SplitHostPort(public.String())
		u.Relay = "wss://" + strings.TrimSuffix(net.JoinHostPort(c.Domain, port), ":443")
	}
	if _, ok := private.(*net.TCPAddr); ok {
		u.Pages = "http://" + localAddress(private) + "/"
		if privateTLS {
			u.Pages = "https://" + localAddress(private) + "/"
		}
	}
	return u
}

// localAddress returns the address by which this machine reaches a listener: loopback for
// a listener at all addresses.
func localAddress(a net.Addr) string {
	if tcp, ok := a.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: tcp.Port}).String()
	}
	return a.String()
}
