package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// operator has the options of the commands that talk to the private listener of a running
// relay. They are the options by which serve opened it, so that in the same environment
// these commands need no options.
type operator struct {
	ConfigFile    string        `name:"config" placeholder:"FILE" unit:"file" group:"The relay" help:"The file that serve reads."`
	MetricsListen string        `name:"metrics-listen" alias:"at" default:"127.0.0.1:9090" unit:"host:port or unix:PATH" group:"The relay" help:"Where serve has its private listener. --at is short for it."`
	WebConfigFile string        `name:"web.config.file" placeholder:"FILE" unit:"file" group:"The relay" help:"TLS and passwords of that listener. With TLS exactly the certificate in it is accepted."`
	WebUser       string        `name:"web-user" placeholder:"NAME" unit:"name" group:"The relay" help:"User, if the listener asks for a password."`
	WebPassword   string        `name:"web-password-file" placeholder:"FILE" unit:"file" group:"The relay" help:"File that has the user's password and nothing else."`
	AnswerTimeout time.Duration `name:"answer-timeout" default:"5s" unit:"time" group:"The relay" help:"How long an answer may take."`
}

// check returns all problems of the options.
func (o *operator) check() []config.Problem {
	var all problems
	if path, ok := config.UnixPath(o.MetricsListen); ok {
		rule := config.CheckUnixPath(path)
		all.unless(rule == "", "metrics-listen", o.MetricsListen, rule, "for example unix:/run/pyrycode-relay/private.sock")
	} else {
		_, port, err := net.SplitHostPort(o.MetricsListen)
		all.unless(err == nil && port != "0" && port != "", "metrics-listen", o.MetricsListen, "must be host:port with the port that serve listens on", "the default is 127.0.0.1:9090")
	}
	all.unless((o.WebUser == "") == (o.WebPassword == ""), "web-password-file", o.WebPassword, "must be given with --web-user", "both or none")
	all.unless(o.AnswerTimeout > 0, "answer-timeout", o.AnswerTimeout, "must be more than 0s", "the default is 5s")
	return all
}

// asker sends requests to the private listener of one relay.
type asker struct {
	base           string // http://host:port or unix:PATH, for the user
	url            string // for requests: with a Unix socket, its host is localhost
	client         *http.Client
	user, password string
}

// asker returns an asker that waits for each answer for at most timeout. Errors are
// sentences.
func (o *operator) asker(timeout time.Duration) (*asker, error) {
	t := &http.Transport{DisableKeepAlives: true}
	host := dialable(o.MetricsListen)
	a := &asker{base: "http://" + host, user: o.WebUser}
	if path, ok := config.UnixPath(o.MetricsListen); ok {
		host, a.base = "localhost", o.MetricsListen
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
	}
	a.url = "http://" + host
	a.client = &http.Client{
		Transport: t, Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if o.WebPassword != "" {
		text, err := config.ReadFile(o.WebPassword, maxConfigFile, true)
		if err != nil {
			return nil, fmt.Errorf("cannot read --web-password-file %s: %w", o.WebPassword, err)
		}
		a.password = strings.TrimRight(string(text), "\r\n")
	}
	if o.WebConfigFile == "" {
		return a, nil
	}
	leaf, err := leafOf(o.WebConfigFile)
	if err != nil {
		return nil, fmt.Errorf("--web.config.file %s: %w", o.WebConfigFile, err)
	}
	if leaf != nil {
		a.url = "https://" + host
		if a.base != o.MetricsListen {
			a.base = a.url
		}
		t.TLSClientConfig = &tls.Config{
			MinVersion: tls.VersionTLS12,
			// The certificate is not for the name that is dialled. The comparison with
			// the certificate in the file proves more than a name.
			InsecureSkipVerify: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				if !bytes.Equal(s.PeerCertificates[0].Raw, leaf.Raw) {
					return errOtherCertificate
				}
				return nil
			},
		}
	}
	return a, nil
}

// dialable returns the address to dial for a listener: loopback for a listener at all
// addresses, and otherwise address.
func dialable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if a, perr := netip.ParseAddr(host); err == nil && (host == "" || perr == nil && a.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return address
}

// leafOf returns the certificate that a web.config.file names, or nil if it names none.
func leafOf(name string) (*x509.Certificate, error) {
	text, err := config.ReadFile(name, maxConfigFile, false)
	if err != nil {
		return nil, err
	}
	var file struct {
		TLS struct {
			Cert     string `yaml:"cert"`
			CertFile string `yaml:"cert_file"`
		} `yaml:"tls_server_config"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, errors.New("is no web configuration; pyrycode-relay check says more")
	}
	chain := []byte(file.TLS.Cert)
	if at := file.TLS.CertFile; at != "" {
		if !filepath.IsAbs(at) {
			at = filepath.Join(filepath.Dir(name), at)
		}
		if chain, err = config.ReadFile(at, maxConfigFile, false); err != nil {
			return nil, fmt.Errorf("cert_file %s: %w", at, err)
		}
	}
	if len(chain) == 0 {
		return nil, nil
	}
	block, _ := pem.Decode(chain)
	if block == nil {
		return nil, errors.New("its certificate is no PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

var errOtherCertificate = errors.New("it shows another certificate than the one in --web.config.file")

// maxAnswer is the greatest number of bytes that is read of one answer.
const maxAnswer = 64 << 20

// get requests one page. The error, a sentence, says why no answer came.
func (a *asker) get(ctx context.Context, path string) (status int, body []byte, err error) {
	return a.do(ctx, http.MethodGet, path, nil)
}

// do makes one request. Its error is as that of get.
func (a *asker) do(ctx context.Context, method, path string, content io.Reader) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, content)
	if err != nil {
		return 0, nil, err
	}
	if method == http.MethodPost {
		req.Header.Set(daemon.OperatorHeader, "1")
	}
	if a.user != "" {
		req.SetBasicAuth(a.user, a.password)
	}
	resp, err := a.client.Do(req)
	if err == nil {
		defer resp.Body.Close()
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		status = resp.StatusCode
	}
	if err != nil {
		return 0, nil, explain(err, target{base: a.base, timeout: a.client.Timeout, private: true})
	}
	switch {
	case status == http.StatusUnauthorized && a.user != "":
		return status, nil, fmt.Errorf("%s refuses the user %q or its password; check --web-user and --web-password-file", a.base, a.user)
	case status == http.StatusUnauthorized:
		return status, nil, fmt.Errorf("%s asks for a password; give --web-user and --web-password-file", a.base)
	case status == http.StatusBadRequest && strings.HasPrefix(a.url, "http:") && bytes.Contains(body, []byte("HTTPS")):
		return status, nil, fmt.Errorf("%s has TLS; give the --web.config.file that serve has; if it is the public listener: %s", a.base, usePrivate)
	}
	return status, body, nil
}

// health has the fields that the answer of every relay's /healthz has.
type health struct {
	Status   *string `json:"status"`
	Version  *string `json:"version"`
	Binaries *int64  `json:"connected_binaries"`
}

// alive requests /healthz. The error, a sentence, says why no relay was found.
func (a *asker) alive(ctx context.Context) error {
	status, body, err := a.get(ctx, "/healthz")
	if err != nil {
		return err
	}
	var h health
	if status != http.StatusOK || json.Unmarshal(body, &h) != nil || h.Status == nil || h.Version == nil || h.Binaries == nil {
		return fmt.Errorf("%s is not a relay: it answers /healthz with HTTP %d and other content; %s", a.base, status, usePrivate)
	}
	return nil
}

// private checks that the address is the private listener of a relay, not its public
// listener and not another server. The error is a sentence.
func (a *asker) private(ctx context.Context) error {
	if err := a.alive(ctx); err != nil {
		return err
	}
	status, _, err := a.get(ctx, "/readyz")
	if err == nil && status == http.StatusNotFound {
		err = fmt.Errorf("%s is the public listener of a relay; %s", a.base, usePrivate)
	}
	return err
}

const usePrivate = "--metrics-listen must name the private one, as serve has it (by default 127.0.0.1:9090)"

// healthcheck is the healthcheck command, for images without curl.
type healthcheck struct {
	operator

	Live bool `of:"healthcheck" unit:"true or false" group:"Question" help:"Ask only whether it is alive, not whether it is ready for connections; while it drains it is the one and not the other."`
}

// run checks that the relay is ready or, with --live, alive. The error is one sentence
// for the user.
func (h *healthcheck) run(ctx context.Context, c invocation) error {
	a, err := h.asker(h.AnswerTimeout)
	if err != nil {
		return err
	}
	if h.Live {
		if err := a.alive(ctx); err != nil {
			return err
		}
		fmt.Fprintln(c.out, "alive")
		return nil
	}
	status, body, err := a.get(ctx, "/readyz")
	if err != nil {
		return err
	}
	said := strings.TrimSpace(strings.ToValidUTF8(string(body[:min(len(body), 300)]), "?"))
	switch {
	case status == http.StatusOK && said == "ready":
	case status == http.StatusServiceUnavailable && strings.HasPrefix(said, "not ready"):
		return fmt.Errorf("%s/readyz: HTTP %d: %s", a.base, status, said)
	default: // not an answer of a relay
		if err := a.private(ctx); err != nil {
			return err
		}
		return fmt.Errorf("%s/readyz: HTTP %d: %q", a.base, status, said)
	}
	fmt.Fprintln(c.out, said)
	return nil
}
