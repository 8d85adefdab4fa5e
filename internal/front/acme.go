package front

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

const (
	// renewalsSeen is the time between two comparisons of the current certificate with
	// the one that autocert may have renewed.
	renewalsSeen = time.Minute

	// firstRetry and lastRetry bound the wait after a failed attempt. Authorities count
	// failures, and some allow fewer than five an hour.
	firstRetry = 2 * time.Minute
	lastRetry  = time.Hour

	// longestWait bounds the time that an authority may demand with Retry-After.
	longestWait = 24 * time.Hour

	// triesInARow is the number of retries of one request that the authority fails to
	// answer. A request that got 429 is not repeated before the time that the answer names.
	triesInARow = 5
)

// errOverdue is the reason for a missing renewal. autocert does not report why it could not
// renew.
var errOverdue = errors.New("its renewal is overdue: the authority could not be reached, or refused")

// acmeCerts is a certificate from an ACME authority.
type acmeCerts struct {
	*certificate
	domain  string
	manager *autocert.Manager
	told    atomic.Int64 // the wait that the authority has demanded, in nanoseconds
}

// newACME returns an ACME client for cfg. Check must have accepted cfg.ACMEDir.
func newACME(cfg Config, c *certificate) *acmeCerts {
	domain := config.HostName(cfg.Domain)
	a := &acmeCerts{certificate: c, domain: domain}
	a.manager = &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(cfg.ACMEDir),
		HostPolicy: autocert.HostWhitelist(domain),
		Email:      cfg.ACMEEmail,
		Client: &acme.Client{DirectoryURL: cfg.ACMEDirectory, HTTPClient: cfg.ACME, UserAgent: "pyrycode-relay",
			RetryBackoff: a.again},
	}
	return a
}

// again returns the wait before the next attempt of a failed request, or 0 for none. The
// default of the library retries for minutes, also at an authority that refuses.
func (a *acmeCerts) again(n int, _ *http.Request, resp *http.Response) time.Duration {
	if resp.StatusCode == http.StatusTooManyRequests {
		a.told.Store(int64(min(retryAfter(resp.Header.Get("Retry-After"), time.Now()), longestWait)))
		return 0
	}
	if n > triesInARow {
		return 0
	}
	return 250 * time.Millisecond << n
}

// retryAfter parses a Retry-After header: a number of seconds, or a date.
func retryAfter(value string, now time.Time) time.Duration {
	if secs, err := strconv.Atoi(value); err == nil {
		return max(0, time.Duration(min(secs, 1<<31))*time.Second)
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// overdue reports whether the renewal of leaf is late. autocert renews when a third of the
// lifetime is left, or 30 days. The renewal is late when half of that time has passed.
func overdue(leaf *x509.Certificate, now time.Time) bool {
	left := min(leaf.NotAfter.Sub(leaf.NotBefore)/3, 30*24*time.Hour)
	return leaf.NotAfter.Sub(now) < left/2
}

// keep gets a certificate and then uses its renewals, which autocert makes. No other
// goroutine asks the authority for a first certificate, so that a flood of handshakes cannot
// use up the rate limit of the authority.
func (a *acmeCerts) keep(ctx context.Context, reload <-chan os.Signal) {
	retry := firstRetry
	for {
		wait := renewalsSeen
		cert, err := a.manager.GetCertificate(&tls.ClientHelloInfo{
			ServerName:   a.domain,
			CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, // demands an ECDSA key
		})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait, retry = max(retry, time.Duration(a.told.Swap(0))), min(2*retry, lastRetry)
			a.failed(err, wait)
		default:
			a.use(cert)
			if !overdue(cert.Leaf, time.Now()) {
				retry = firstRetry
				break
			}
			wait, retry = retry, min(2*retry, lastRetry)
			a.failed(errOverdue, wait)
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

// config returns a configuration in which autocert answers the authority's own handshakes.
func (a *acmeCerts) config() *tls.Config {
	return tlsConfig(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.ALPNProto {
			return a.manager.GetCertificate(hello)
		}
		return a.get(hello)
	}, acme.ALPNProto)
}

func (a *acmeCerts) serves(host string) bool { return host == a.domain }

// challenges answers the challenges of the authority on port 80, and 404 to all else.
func (a *acmeCerts) challenges() http.Handler {
	answers := a.manager.HTTPHandler(http.NotFoundHandler())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Host = config.HostName(r.Host) // autocert refuses a host with a port
		answers.ServeHTTP(w, r)
	})
}
