// Package clustercert makes the certificates by which the relays of one cluster recognize
// each other. All relays derive the same authority from the cluster's secret. Each relay
// creates its own certificate of that authority at its start, so no certificate has to be
// distributed, renewed or revoked. A new secret replaces them all.
//
// The package imports the standard library only. Begin with [Derive].
package clustercert

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// ServerName is the name for which all certificates of a cluster are valid. Clients ask for
// it in place of the host that they dial: the secret identifies a relay, and its address
// may change.
const ServerName = "relay.pyrycode-relay.internal"

// MinSecret is the least length of a secret in bytes. Every client that reaches a relay's
// port sees a certificate, against which it can test guesses of the secret.
const MinSecret = 16

// The certificates are valid at all times, so that a wrong clock does not end a cluster.
var (
	notBefore = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// Identity is a relay's certificate together with its authority.
type Identity struct {
	certificate tls.Certificate
	authority   *x509.Certificate
}

// Derive returns a new certificate of the authority that belongs to secret. name appears in
// the certificate for its readers; no relay decides by it. The secret must have
// [MinSecret] bytes at least.
func Derive(secret, name string) (*Identity, error) {
	if len(secret) < MinSecret {
		return nil, fmt.Errorf("the cluster's secret has %d bytes and needs %d", len(secret), MinSecret)
	}
	seed, err := hkdf.Key(sha256.New, []byte(secret), nil, "pyrycode-relay cluster authority 1", ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive the cluster's authority: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	authority, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "pyrycode-relay cluster"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, nil, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("derive the cluster's authority: %w", err)
	}
	public, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create this relay's key: %w", err)
	}
	leaf, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{ServerName},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, authority, public, key)
	if err != nil {
		return nil, fmt.Errorf("create this relay's certificate: %w", err)
	}
	return &Identity{tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: own, Leaf: leaf}, authority}, nil
}

// sign returns template as a certificate of parent, or as one that is signed by itself if
// parent is nil.
func sign(template, parent *x509.Certificate, public any, key ed25519.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = serial, notBefore, notAfter
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (i *Identity) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(i.authority)
	return p
}

// Server returns a configuration that accepts relays of the same cluster only.
func (i *Identity) Server() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{i.certificate},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: i.pool()}
}

// Client returns a configuration that connects to relays of the same cluster only. It accepts
// each certificate of the authority for [ServerName], whatever host the caller dials: gRPC
// replaces the ServerName of a configuration by the host.
func (i *Identity) Client() *tls.Config {
	roots := i.pool()
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{i.certificate}, ServerName: ServerName,
		InsecureSkipVerify: true, // VerifyConnection verifies the certificate
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: ServerName, Roots: roots})
			if err != nil {
				return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
			}
			return nil
		}}
}

// Files are the names of an identity's files.
type Files struct{ Certificate, Key, Authority string }

// WriteFiles writes the identity as PEM files into dir, readable by this user alone. Files
// of an earlier identity are replaced, each in one step.
func (i *Identity) WriteFiles(dir string) (Files, error) {
	f := Files{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "authority.pem")}
	key, err := x509.MarshalPKCS8PrivateKey(i.certificate.PrivateKey)
	if err != nil {
		return f, err
	}
	for _, file := range []struct {
		name, kind string
		der        []byte
	}{{f.Certificate, "CERTIFICATE", i.certificate.Leaf.Raw}, {f.Key, "PRIVATE KEY", key}, {f.Authority, "CERTIFICATE", i.authority.Raw}} {
		var text bytes.Buffer
		if err := pem.Encode(&text, &pem.Block{Type: file.kind, Bytes: file.der}); err != nil {
			return f, err
		}
		if err := os.WriteFile(file.name+".new", text.Bytes(), 0o600); err != nil {
			return f, err
		}
		if err := os.Rename(file.name+".new", file.name); err != nil {
			return f, err
		}
	}
	return f, nil
}
