package daemon

import (
	"context"
	"crypto/tls"
	"net/http"
	"os"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

const (
	// renewalsSeen is how often the certificate at hand is compared with the
	// one that autocert may have renewed.
	renewalsSeen = time.Minute

	// firstRetry and lastRetry bound the wait after an attempt that failed.
	// Authorities count failures: five an hour are too many for some.
	firstRetry = 2 * time.Minute
	lastRetry  = time.Hour
)

// acmeCerts is a certificate from an ACME authority.
type acmeCerts struct {
	*certificate
	domain  string
	manager *autocert.Manager
}

// newACME makes one for cfg, whose directory has been checked.
func newACME(cfg Config, c *certificate, client *http.Client) *acmeCerts {
	domain := hostName(cfg.Domain)
	return &acmeCerts{
		certificate: c,
		domain:      domain,
		manager: &autocert.Manager{
			Prompt:     autocert.AcceptTOS,
			Cache:      autocert.DirCache(cfg.ACMEDir),
			HostPolicy: autocert.HostWhitelist(domain),
			Email:      cfg.ACMEEmail,
			Client:     &acme.Client{DirectoryURL: cfg.ACMEDirectory, HTTPClient: client, UserAgent: "pyrycode-relay"},
		},
	}
}

// keep gets a certificate and then follows its renewals, which autocert
// makes. Only this task ever asks the authority for a first one, so that a
// flood of handshakes cannot use up what the authority allows.
func (a *acmeCerts) keep(ctx context.Context, reload <-chan os.Signal) {
	retry := firstRetry
	for {
		wait := renewalsSeen
		cert, err := a.manager.GetCertificate(&tls.ClientHelloInfo{
			ServerName:   a.domain,
			CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, // so, an ECDSA key
		})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait, retry = retry, min(2*retry, lastRetry)
			a.failed(err, wait)
		default:
			retry = firstRetry
			a.use(cert)
		}
		next := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-reload:
			next.Stop()
		case <-next.C:
		}
	}
}

// config lets the authority's own handshakes through to autocert.
func (a *acmeCerts) config() *tls.Config {
	return tlsConfig(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto {
			return a.manager.GetCertificate(hello)
		}
		return a.get(hello)
	}, acme.ALPNProto)
}

func (a *acmeCerts) serves(host string) bool { return host == a.domain }

// challenges answers what the authority asks for on port 80, and 404.
func (a *acmeCerts) challenges() http.Handler {
	answers := a.manager.HTTPHandler(http.NotFoundHandler())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = hostName(r.Host) // autocert would refuse one with a port
		answers.ServeHTTP(w, r)
	})
}
