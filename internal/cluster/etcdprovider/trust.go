package etcdprovider

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcd"
)

const (
	// handshakeTime bounds the test of one server.
	handshakeTime = 2 * time.Second

	// refusalTime is how long the test waits for a server to refuse the relay's certificate. With
	// TLS 1.3 a refusal comes after the handshake.
	refusalTime = 300 * time.Millisecond
)

// untrusted tests TLS with each server of etcd, because the errors of etcd's client do not say
// why TLS fails. The error is not nil if TLS fails with all of them. Otherwise unusual has a
// sentence for each with which it fails. Servers that cannot be reached are not tested.
func untrusted(ctx context.Context, cfg directory.Config, c etcd.Config) (unusual []string, err error) {
	faults := make([]error, len(c.Endpoints))
	done := make(chan struct{})
	for i, e := range c.Endpoints {
		go func() {
			if fault := handshake(ctx, e, c.TLS); fault != nil {
				faults[i] = explainTLS(cfg, e, fault)
			}
			done <- struct{}{}
		}()
	}
	for range c.Endpoints {
		<-done
	}
	for _, f := range faults {
		if f != nil {
			unusual = append(unusual, f.Error())
		}
	}
	if len(unusual) == len(c.Endpoints) {
		return nil, faults[0]
	}
	return unusual, nil
}

// handshake returns why TLS with the server at endpoint fails, or nil.
func handshake(ctx context.Context, endpoint string, cfg *tls.Config) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	var d net.Dialer
	tcp, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil // the caller waits for a server that does not run yet
	}
	defer tcp.Close()
	cfg = cfg.Clone()
	cfg.ServerName, cfg.NextProtos = u.Hostname(), []string{"h2"}
	conn := tls.Client(tcp, cfg)
	if err = conn.HandshakeContext(ctx); err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(refusalTime)) // the connection is open
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil && (strings.Contains(err.Error(), "tls: ") || strings.Contains(err.Error(), "x509: ")) {
		return err
	}
	return nil // others, for example that a server has just ended, may go away
}

// explainTLS returns err as a sentence with the option, its value and a remedy.
func explainTLS(cfg directory.Config, endpoint string, err error) error {
	text := err.Error()
	var expired x509.CertificateInvalidError
	var host x509.HostnameError
	switch {
	case strings.Contains(text, "certificate required"):
		return fmt.Errorf("--cluster-cert: must be given, because etcd at %s serves no client without a certificate (%w); give --cluster-cert and --cluster-key", endpoint, err)
	case strings.Contains(text, "remote error: tls:"):
		return fmt.Errorf("--cluster-cert %q: must be a certificate that etcd at %s accepts, and it does not (%w); is it for clients, and signed by the authority in etcd's --trusted-ca-file?", cfg.Cert, endpoint, err)
	case errors.As(err, &host):
		return fmt.Errorf("--cluster %q: must name the server as its certificate does (%w)", endpoint, err)
	case errors.As(err, &expired) && expired.Reason == x509.Expired:
		return fmt.Errorf("--cluster %q: the certificate of this server must be valid (%w); renew it, or correct the clock of this machine", endpoint, err)
	case strings.Contains(text, "first record does not look like a TLS handshake"):
		return fmt.Errorf("--cluster %q: must be a server with TLS, and it has none (%w); write http://, or give etcd a certificate", endpoint, err)
	}
	return fmt.Errorf("--cluster-ca %q: must have the authority of the certificate of etcd at %s (%w)", cfg.CA, endpoint, err)
}
