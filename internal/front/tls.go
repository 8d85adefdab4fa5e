package front

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// certificates is the source of the public listener's certificate: an ACME authority, or
// files. A handshake gets the current certificate. No peer can make the relay ask for another.
type certificates interface {
	// keep gets and renews the certificate until ctx ends. A value from reload makes it
	// look immediately.
	keep(ctx context.Context, reload <-chan os.Signal)

	// config returns the configuration of the public listener.
	config() *tls.Config

	// serves reports whether this relay serves host, which is in lower case.
	serves(host string) bool
}

// errNoCertificate ends handshakes before the first certificate.
var errNoCertificate = errors.New("there is no certificate yet")

// certificate has the current certificate, its metrics and its log.
type certificate struct {
	log      *slog.Logger
	at       atomic.Pointer[tls.Certificate]
	notAfter prometheus.Gauge
	failures prometheus.Counter
}

// newCertificate registers the metrics of a certificate. Without TLS they are 0.
func newCertificate(reg prometheus.Registerer, log *slog.Logger) (*certificate, error) {
	c := &certificate{
		log: log,
		notAfter: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pyrycode_relay_tls_certificate_not_after_timestamp_seconds",
			Help: "When the public listener's certificate ends, as a Unix time; 0 without one.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pyrycode_relay_tls_certificate_failures_total",
			Help: "Attempts to get or reload the public listener's certificate that failed. The old one is served.",
		}),
	}
	return c, errors.Join(reg.Register(c.notAfter), reg.Register(c.failures))
}

// use makes cert the current certificate, and logs a change.
func (c *certificate) use(cert *tls.Certificate) {
	old := c.at.Swap(cert)
	c.notAfter.Set(float64(cert.Leaf.NotAfter.Unix()))
	if old == nil || !old.Leaf.Equal(cert.Leaf) {
		c.log.Info("certificate", "names", config.NamesOf(cert.Leaf), "not_after", cert.Leaf.NotAfter)
	}
}

// failed counts and logs a failure to get a newer certificate. next is the time until the
// next attempt; 0: not known.
func (c *certificate) failed(err error, next time.Duration) {
	c.failures.Inc()
	args := []any{"err", err, "have_one", c.at.Load() != nil}
	if next > 0 {
		args = append(args, "next", next)
	}
	c.log.Error("certificate: could not get or read one; the old one, if any, is served", args...)
}

// get returns the certificate for every handshake. The host is checked in the request, where
// the answer can name the error.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := c.at.Load(); cert != nil {
		return cert, nil
	}
	return nil, errNoCertificate
}

// tlsConfig returns the configuration of the public listener, for HTTP/1.1 only. The deadline
// of the handshake is that of the request's header, which net/http sets.
func tlsConfig(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     append([]string{"http/1.1"}, protocols...),
		GetCertificate: get,

		// The relay writes whole messages, many of them at a time. A peer can use none of
		// them before it is complete, so small records only cost.
		DynamicRecordSizingDisabled: true,
	}
}

// rereadEvery is the time between two readings of the certificate's files. Their content is
// compared, so it does not matter how they are replaced.
const rereadEvery = 10 * time.Second

// fileCerts is a certificate from files.
type fileCerts struct {
	*certificate
	certFile, keyFile string
	cert, key         []byte // of the last reading; owned by the goroutine of keep
}

// load reads the files, and uses their certificate if it has changed and clients accept it.
func (f *fileCerts) load() error {
	cert, key, pair, err := config.ReadPair(f.certFile, f.keyFile)
	if err != nil {
		return err
	}
	if bytes.Equal(cert, f.cert) && bytes.Equal(key, f.key) {
		return nil
	}
	if rule, fix := config.Unusable(pair.Leaf, time.Now()); rule != "" {
		return fmt.Errorf("%s %s; %s", f.certFile, rule, fix)
	}
	f.cert, f.key = cert, key
	f.use(pair)
	return nil
}

// keep reloads the files when they change. After a failed reload the old certificate stays.
// Each different reason is logged once, because files are replaced one after the other.
func (f *fileCerts) keep(ctx context.Context, reload <-chan os.Signal) {
	tick := time.NewTicker(rereadEvery)
	defer tick.Stop()
	said := ""
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-reload:
			asked = true
		}
		switch err := f.load(); {
		case err == nil:
			said = ""
		case asked || err.Error() != said:
			said = err.Error()
			f.failed(err, 0)
		}
	}
}

func (f *fileCerts) config() *tls.Config { return tlsConfig(f.get) }

// serves reports whether the certificate is valid for host.
func (f *fileCerts) serves(host string) bool {
	cert := f.at.Load()
	return cert != nil && cert.Leaf.VerifyHostname(host) == nil
}
