package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/bench"
	"github.com/pyrycode/pyrycode-relay/internal/load"
)

type serveBaseline struct {
	TLSCert string `name:"tls-cert"`
	TLSKey  string `name:"tls-key"`
}

// serve runs the plain relay until the context ends.
func (s *serveBaseline) serve(e *load.Env) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(e.Stdout, ln.Addr())
	go func() { <-e.Ctx.Done(); ln.Close() }()
	if s.TLSCert != "" {
		_ = http.ServeTLS(ln, bench.NewBaseline().Handler(), s.TLSCert, s.TLSKey)
		return nil
	}
	_ = http.Serve(ln, bench.NewBaseline().Handler())
	return nil
}

type serveSplice struct {
	To string `required:"" help:"host:port to copy to."`
}

// serve runs the byte copier until the context ends.
func (s *serveSplice) serve(e *load.Env) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(e.Stdout, ln.Addr())
	go func() { <-e.Ctx.Done(); ln.Close() }()
	_ = bench.Splice(ln, s.To)
	return nil
}

// selfSigned is a certificate for loopback in files: ECDSA on P-256, which
// public authorities issue today.
type selfSigned struct {
	dir, certFile, keyFile string
	pool                   *x509.CertPool
}

func newSelfSigned() (*selfSigned, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	s := &selfSigned{pool: x509.NewCertPool()}
	s.pool.AddCert(cert)
	if s.dir, err = os.MkdirTemp("", "relayload"); err != nil {
		return nil, err
	}
	s.certFile, s.keyFile = filepath.Join(s.dir, "cert.pem"), filepath.Join(s.dir, "key.pem")
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{s.certFile, "CERTIFICATE", der}, {s.keyFile, "PRIVATE KEY", secret}} {
		if err := os.WriteFile(f.name, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			s.remove()
			return nil, err
		}
	}
	return s, nil
}

func (s *selfSigned) remove() { os.RemoveAll(s.dir) }

// client returns a configuration that trusts only this certificate and does not
// resume sessions.
func (s *selfSigned) client() *tls.Config {
	return &tls.Config{RootCAs: s.pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
}
