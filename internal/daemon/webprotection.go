package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
)

// weaker says which protection old has and c lacks; nothing if none. While the
// process runs protection can only be added: a file that is cut in the middle
// must not open the operators' pages.
//
// Rotation needs other names, keys and authorities, so these may be added or
// replaced as long as some are left: users and their hashes, names in
// client_allowed_sans, certificates in client_ca_file. Cipher suites and curves
// are not compared, since all that can be configured are secure. Headers are
// advice to browsers, and may be taken back.
func (c *webConfig) weaker(old *webConfig) string {
	switch {
	case len(old.users) > 0 && len(c.users) == 0:
		return "it no longer has basic_auth_users"
	case old.limiter != nil && c.limiter == nil:
		return "it no longer has rate_limit"
	case old.limiter != nil && moreThan(c.limit, old.limit):
		return fmt.Sprintf("its rate_limit, interval %s and burst %d, lets more through than before, interval %s and burst %d", c.limit.Interval, c.limit.Burst, old.limit.Interval, old.limit.Burst)
	case old.tls == nil:
		return ""
	case c.tls == nil:
		return "it no longer has tls_server_config"
	}
	for _, v := range []struct {
		key      string
		was, now uint16
	}{{"min_version", old.tls.MinVersion, c.tls.MinVersion}, {"max_version", old.tls.MaxVersion, c.tls.MaxVersion}} {
		if v.now < v.was {
			return fmt.Sprintf("its %s is %s, and was %s", v.key, tls.VersionName(v.now), tls.VersionName(v.was))
		}
	}
	was, now := old.tls.ClientAuth, c.tls.ClientAuth
	switch {
	case old.clientCert && !c.clientCert:
		return "it no longer has client_auth_type: RequireAndVerifyClientCert with client_ca_file"
	case requires(was) && !requires(now) || verifies(was) && !verifies(now):
		return fmt.Sprintf("its client_auth_type is %s, and was %s", now, was)
	case old.tls.ClientCAs != nil && c.tls.ClientCAs == nil:
		return "it no longer has client_ca_file"
	case len(old.sans) > 0 && len(c.sans) == 0:
		return "it no longer has client_allowed_sans"
	}
	return ""
}

// requires reports whether a client without a certificate is refused.
func requires(a tls.ClientAuthType) bool {
	return a == tls.RequireAnyClientCert || a == tls.RequireAndVerifyClientCert
}

// verifies reports whether a client is refused whose certificate comes from
// an unknown authority.
func verifies(a tls.ClientAuthType) bool {
	return a == tls.VerifyClientCertIfGiven || a == tls.RequireAndVerifyClientCert
}

// moreThan reports whether a lets requests through that b does not: in a
// burst, or over a long time.
func moreThan(a, b web.RateLimiterConfig) bool { return a.Burst > b.Burst || a.Interval < b.Interval }

// canShakeHands returns nil if a client that accepts everything that crypto/tls
// has can do a handshake with a server that has c. It ignores what c demands of
// the certificates of clients.
func canShakeHands(c *tls.Config) error {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	near, far := net.Pipe()
	defer near.Close()
	served := make(chan error, 1)
	server := c.Clone()
	server.ClientAuth, server.VerifyPeerCertificate = tls.NoClientCert, nil
	server.SessionTicketsDisabled = true // the client does not wait for them
	go func() {
		defer far.Close()
		served <- tls.Server(far, server).HandshakeContext(ctx)
	}()
	client := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10} // both ends are here
	for _, s := range tls.CipherSuites() {
		client.CipherSuites = append(client.CipherSuites, s.ID)
	}
	dialed := tls.Client(near, client).HandshakeContext(ctx)
	near.Close()
	if err := <-served; err != nil {
		return err
	}
	return dialed
}
