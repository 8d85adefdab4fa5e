package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/bench"
	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

type serveBaseline struct {
	TLSCert string `help:"Certificate chain (PEM); none: no TLS."`
	TLSKey  string `help:"Its private key (PEM)."`
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
	To string `required:"true" help:"host:port to copy to."`
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

// haproxyPath returns the path of HAProxy, or "" if it is not installed. Debian
// installs it in a directory that is not in the PATH of most users.
func haproxyPath() string {
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// haproxyConfig copies bytes between the connections of file descriptor 3, a listening
// socket, and new connections to a server. Its arguments are the options of the
// listener, the server's address, and the options of the connections to the server.
const haproxyConfig = `global
  nbthread 1
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen bench
  bind fd@3 %s
  server echo %s %s
`

// startHaproxy starts HAProxy with one thread in front of an echo server. With a
// certificate it uses TLS on both sides, as a relay does.
func startHaproxy(ctx context.Context, path, echo string, cert *selfSigned) (*load.Child, error) {
	dir, err := os.MkdirTemp("", "relayload")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // HAProxy is ready and has read the files
	bind, server := "", ""
	if cert != nil {
		bind, server = "ssl crt "+cert.bothFile, "ssl verify none"
	}
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, haproxyConfig, bind, echo, server), 0o600); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	inherited, err := ln.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	defer inherited.Close()
	cmd := exec.Command(path, "-V", "-db", "-f", file)
	cmd.ExtraFiles = []*os.File{inherited}
	p, err := wstest.StartProcess(ctx, "haproxy", cmd, io.Discard, load.StartTimeout, func(line string) bool {
		return strings.HasPrefix(line, "Using ") // the polling mechanism: the last line before it serves
	})
	if err != nil {
		return nil, err
	}
	return &load.Child{Process: p, Name: "haproxy", Addr: ln.Addr().String()}, nil
}

// selfSigned is a certificate for loopback in files: ECDSA on P-256, which
// public authorities issue today.
type selfSigned struct {
	dir, certFile, keyFile, bothFile string
	pool                             *x509.CertPool
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
	s.certFile, s.keyFile, s.bothFile = filepath.Join(s.dir, "cert.pem"), filepath.Join(s.dir, "key.pem"), filepath.Join(s.dir, "both.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	for name, text := range map[string][]byte{s.certFile: certPEM, s.keyFile: keyPEM, s.bothFile: slices.Concat(certPEM, keyPEM)} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			s.remove()
			return nil, err
		}
	}
	return s, nil
}

func (s *selfSigned) remove() { os.RemoveAll(s.dir) }

// server returns the configuration of a server with this certificate.
func (s *selfSigned) server() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, err
}

// client returns a configuration that trusts only this certificate and does not
// resume sessions.
func (s *selfSigned) client() *tls.Config {
	return &tls.Config{RootCAs: s.pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
}
