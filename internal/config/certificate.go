package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// ReadPair reads a certificate and its key.
func ReadPair(certFile, keyFile string) (cert, key []byte, pair *tls.Certificate, err error) {
	if cert, err = ReadFile(certFile, MaxFile, false); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", certFile, err)
	}
	if key, err = ReadFile(keyFile, MaxFile, false); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	p, err := tls.X509KeyPair(cert, key) // its errors name no part of the key
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
	}
	return cert, key, &p, nil
}

// Unusable says why clients refuse a certificate whatever they trust, and
// what to do about it; nothing if they need not. The start refuses such a
// certificate, and a reload keeps the one before it.
func Unusable(leaf *x509.Certificate, now time.Time) (rule, fix string) {
	const form = "2006-01-02 15:04 MST"
	switch {
	case !now.Before(leaf.NotAfter):
		return "must not have ended, and this certificate ended on " + leaf.NotAfter.UTC().Format(form), "get a new one"
	case now.Before(leaf.NotBefore):
		return "must be good already, and this certificate is good from " + leaf.NotBefore.UTC().Format(form) + " on", "is this machine's clock right?"
	case len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0:
		return "must name the hosts that it is good for, and this certificate names none (subjectAltName)", "get one with the relay's name in it; clients do not look at its common name"
	case len(leaf.ExtKeyUsage) > 0 && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny):
		return "must be for servers, and this certificate is not (extendedKeyUsage lacks serverAuth)", "get one for servers"
	}
	return "", ""
}

// NamesOf returns the host names and the IP addresses that a certificate is for.
func NamesOf(leaf *x509.Certificate) []string {
	names := slices.Clone(leaf.DNSNames)
	for _, a := range leaf.IPAddresses {
		names = append(names, a.String())
	}
	return names
}

// HostName is a Host header's name: without port, brackets and the root's
// dot, in small letters.
func HostName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
