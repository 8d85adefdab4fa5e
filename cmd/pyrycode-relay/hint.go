package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// target is an address that was not reached, with the way to it.
type target struct {
	base    string // the URL, without a path
	timeout time.Duration
	proxy   *url.URL // the proxy on the way; nil: none
	private bool     // the private listener of the relay, not the public one
}

// explain turns the error of a request without an answer into a sentence for the user,
// with the remedy for this kind of error.
func explain(err error, t target) *failure {
	d := t.diagnose(err)
	kind, cause, hint := d.kind, d.cause, d.hint
	if t.proxy != nil {
		via := &url.URL{Scheme: t.proxy.Scheme, Host: t.proxy.Host} // not its password
		if kind == failTLS {
			hint += fmt.Sprintf("; the way there is the proxy %s", via)
		} else {
			hint = "is the proxy running, and may it connect there? HTTP_PROXY and HTTPS_PROXY name it, NO_PROXY lists hosts that are reached without it"
		}
		return &failure{kind, fmt.Errorf("cannot reach %s by way of the proxy %s: %w; %s", t.base, via, cause, hint)}
	}
	if kind == failTimeout && cause == nil {
		return &failure{kind, fmt.Errorf("no answer from %s within %s: %s", t.base, t.timeout, hint)}
	}
	return &failure{kind, fmt.Errorf("cannot reach %s: %w; %s", t.base, cause, hint)}
}

// diagnosis is the reason why a connection failed.
type diagnosis struct {
	kind  string
	cause error  // in a few words; nil for a time-out without a proxy, which needs no cause
	hint  string // the remedy
}

// diagnose returns the diagnosis of err.
func (t target) diagnose(err error) diagnosis {
	if d, ok := t.dnsProblem(err); ok {
		return d
	}
	if d, ok := t.tlsProblem(err); ok {
		return d
	}
	var cause error
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		if t.proxy != nil {
			cause = fmt.Errorf("no answer within %s", t.timeout)
		}
		return diagnosis{failTimeout, cause, "is the relay running, and is nothing in between that drops packets?"}
	}
	running := "is the relay running?"
	if t.private {
		running = "is the relay running, with this --metrics-listen?"
	}
	cause = innermost(err)
	switch {
	case errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH):
		return diagnosis{failUnreachable, cause, "is there a way from here to that address: network, VPN, firewall?"}
	case closedEarly(err) && t.private:
		return diagnosis{failUnreachable, errors.New("it closed the connection without an answer"),
			"is that the relay's private listener, and does it want TLS? If other clients use all of its connections (32, and 24 of one address), try again"}
	case closedEarly(err):
		return diagnosis{failUnreachable, errors.New("it closed the connection without an answer"),
			"is that the relay's port, does it want TLS, or a PROXY header (--proxy-protocol) first?"}
	case strings.Contains(err.Error(), "malformed HTTP"):
		return diagnosis{failUnreachable, errors.New("its answer is not HTTP"), "is that the relay's port?"}
	}
	return diagnosis{failUnreachable, cause, running}
}

// closedEarly reports whether err means that the server closed the connection before its
// answer. The error depends on how much of the request was sent.
func closedEarly(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return strings.Contains(err.Error(), "server closed idle connection") // net/http does not export this error
}

// innermost returns err without the parts that the sentence already has: the address and
// the operation.
func innermost(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func (t target) dnsProblem(err error) (d diagnosis, ok bool) {
	e, ok := errors.AsType[*net.DNSError](err)
	switch {
	case !ok:
		return d, false
	case e.IsTimeout:
		return diagnosis{failTimeout, fmt.Errorf("DNS did not answer for %q", e.Name), "can this machine reach its name servers (/etc/resolv.conf)?"}, true
	case e.IsNotFound:
		return diagnosis{failUnreachable, fmt.Errorf("DNS knows no address of %q", e.Name), "is the name right, and has its record been published?"}, true
	}
	return diagnosis{failUnreachable, fmt.Errorf("DNS failed for %q: %s", e.Name, e.Err), "do this machine's name servers work (/etc/resolv.conf)?"}, true
}

// tlsProblem returns the diagnosis if err is about a certificate, or if only one side uses
// TLS.
func (t target) tlsProblem(err error) (d diagnosis, ok bool) {
	plain, secure := "use ws://, or is it another port that has TLS?", "use wss://"
	if t.private {
		plain, secure = "leave --web.config.file out, or is it another port?", "give the --web.config.file that serve has"
	}
	unknown, isUnknown := errors.AsType[x509.UnknownAuthorityError](err)
	name, isName := errors.AsType[x509.HostnameError](err)
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	_, isRecord := errors.AsType[tls.RecordHeaderError](err)
	alert, isAlert := errors.AsType[tls.AlertError](err)
	var remote *net.OpError
	isRemote := errors.As(err, &remote) && remote.Op == "remote error" // an alert over TCP
	switch {
	case errors.Is(err, errOtherCertificate):
		return diagnosis{failTLS, errOtherCertificate, "is that the relay's --metrics-listen, and does it use that file?"}, true
	case isRecord || errors.Is(err, http.ErrSchemeMismatch):
		return diagnosis{failTLS, errors.New("it does not speak TLS"), plain}, true
	case strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`): // an alert
		return diagnosis{failTLS, errors.New("it speaks TLS"), secure}, true
	case isUnknown:
		return diagnosis{failTLS, unknown, "does the relay show its whole chain, and does this machine know the authority? SSL_CERT_FILE=FILE adds one of your own"}, true
	case isName:
		return diagnosis{failTLS, name, "use a name that the certificate is for, or get one for this name"}, true
	case isInvalid && invalid.Reason == x509.Expired && invalid.Cert != nil && time.Now().Before(invalid.Cert.NotBefore):
		return diagnosis{failTLS, fmt.Errorf("its certificate is good only from %s on", date(invalid.Cert.NotBefore)), "is the clock of this machine right?"}, true
	case isInvalid && invalid.Reason == x509.Expired && invalid.Cert != nil:
		return diagnosis{failTLS, fmt.Errorf("its certificate expired on %s", date(invalid.Cert.NotAfter)), "the relay's log says why there is no newer one; is the clock of this machine right?"}, true
	case isInvalid:
		return diagnosis{failTLS, invalid, "the relay needs another certificate"}, true
	case isAlert:
		return diagnosis{failTLS, alert, refusedTLS}, true
	case isRemote:
		return diagnosis{failTLS, remote.Err, refusedTLS}, true
	}
	if v, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return diagnosis{failTLS, v.Err, "the relay needs another certificate"}, true
	}
	return d, false
}

const refusedTLS = "it refuses the TLS handshake: has it a certificate for that name, and does it speak TLS 1.2 or later?"

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// refusalHint returns the remedy for an HTTP answer that does not come from the relay's
// public listener, and "" for all other answers.
func refusalHint(base string, resp *http.Response, body string) string {
	location, _ := url.Parse(resp.Header.Get("Location"))
	switch code := resp.StatusCode; {
	case code == http.StatusBadRequest && strings.HasPrefix(base, "ws:") && strings.Contains(body, "HTTPS"):
		return "that port speaks TLS: use wss://"
	case code >= 300 && code < 400 && strings.HasPrefix(base, "ws:") && location != nil && location.Scheme == "https":
		return "it redirects to TLS: use wss://"
	case code >= 300 && code < 400:
		return "another server answers there; --relay must name the relay itself"
	case code == http.StatusNotFound:
		return "that is not the relay's public listener: --relay must name the address of its --listen, without a path"
	case code == http.StatusMisdirectedRequest:
		return "the relay serves another name: use the one of its certificate or --domain"
	case code == http.StatusUnauthorized && strings.HasPrefix(body, "path: "):
		return "" // of the relay itself: it wants a token
	case code == http.StatusUnauthorized || code == http.StatusProxyAuthRequired:
		return "the relay's public listener asks for no password: another server, or a proxy, answers there"
	case code == http.StatusBadGateway || code == http.StatusGatewayTimeout:
		return "a proxy answers, and cannot reach the relay: is the relay running?"
	case code == http.StatusOK:
		return "another server answers there, or a proxy in between does not pass WebSockets on"
	}
	return ""
}
