// Package certtest issues certificates for tests.
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority is a certificate authority of a test.
type Authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	n    int64
}

// New returns an authority with a new key.
func New(t testing.TB) *Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &Authority{t: t, key: key, pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// Issue writes a new certificate for servers with the given names, and its key, into dir.
// It returns the paths of both. Each certificate expires later than the one before it.
func (a *Authority) Issue(dir string, names ...string) (certFile, keyFile string, notAfter time.Time) {
	a.t.Helper()
	return a.IssueAs(dir, func(c *x509.Certificate) { c.DNSNames = names })
}

// IssueAs is [Authority.Issue] with a certificate that set changes before it is signed.
func (a *Authority) IssueAs(dir string, set func(*x509.Certificate)) (certFile, keyFile string, notAfter time.Time) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.n++
	notAfter = time.Now().Add(time.Hour + time.Duration(a.n)*time.Minute).Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1 + a.n),
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: notAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	set(template)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return certFile, keyFile, notAfter
}

// Client returns the TLS configuration of a client that trusts a and expects a server
// with the given name.
func (a *Authority) Client(name string) *tls.Config {
	return &tls.Config{RootCAs: a.pool, ServerName: name}
}

// PEM returns a's certificate in PEM.
func (a *Authority) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// ClientCertificate issues a certificate for a client.
func (a *Authority) ClientCertificate(t testing.TB, name string) tls.Certificate {
	t.Helper()
	cert, key, _ := a.IssueAs(t.TempDir(), func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{name}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// Unusable are certificates that every client refuses.
var Unusable = []struct {
	Name string                  // of the case
	Set  func(*x509.Certificate) // for IssueAs
	Rule string                  // the beginning of the rule that the certificate breaks
}{
	{"without a name", func(*x509.Certificate) {}, "must name its hosts"},
	{"with a common name alone", func(c *x509.Certificate) { c.Subject.CommonName = "relay.test" }, "must name its hosts"},
	{"expired", func(c *x509.Certificate) {
		c.DNSNames, c.NotAfter = []string{"relay.test"}, time.Now().Add(-time.Minute)
	}, "must not have expired, and this certificate expired on "},
	{"not yet valid", func(c *x509.Certificate) {
		c.DNSNames, c.NotBefore = []string{"relay.test"}, time.Now().Add(time.Minute)
	}, "must be valid already"},
	{"for clients", func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{"relay.test"}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}, "must be for servers"},
}
