package config

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// webFile is the content of --web.config.file, in the format of Prometheus' exporters. A
// test compares it with their package, github.com/prometheus/exporter-toolkit/web. That
// package adds 2.2 MB to the program.
type webFile struct {
	TLS  tlsSection `yaml:"tls_server_config"`
	HTTP struct {
		HTTP2  bool              `yaml:"http2"` // ignored: operators' pages need no HTTP/2
		Header map[string]string `yaml:"headers"`
	} `yaml:"http_server_config"`
	Limit RateLimit         `yaml:"rate_limit"`
	Users map[string]string `yaml:"basic_auth_users"`

	content [sha256.Size]byte // with that of the files that it names
}

// RateLimit is the section rate_limit: the number of requests that may come at one moment,
// and the average time between two requests.
type RateLimit struct {
	Burst    int           `yaml:"burst"`
	Interval time.Duration `yaml:"interval"`
}

// tlsSection is the section tls_server_config. The content of the files that it names
// replaces their names.
type tlsSection struct {
	Cert         string   `yaml:"cert"`
	Key          string   `yaml:"key"`
	ClientCA     string   `yaml:"client_ca"`
	CertFile     string   `yaml:"cert_file"`
	KeyFile      string   `yaml:"key_file"`
	ClientCAFile string   `yaml:"client_ca_file"`
	ClientAuth   string   `yaml:"client_auth_type"`
	Ciphers      []string `yaml:"cipher_suites"`
	Curves       []string `yaml:"curve_preferences"`
	MinVersion   string   `yaml:"min_version"`
	MaxVersion   string   `yaml:"max_version"`
	AllowedSans  []string `yaml:"client_allowed_sans"`

	PreferServerCipherSuites bool `yaml:"prefer_server_cipher_suites"` // ignored, as crypto/tls does
}

// readWebFile reads name and the files that it names.
func readWebFile(name string) (*webFile, error) {
	text, err := ReadFile(name, MaxFile, false)
	if err != nil {
		return nil, err
	}
	f := &webFile{TLS: tlsSection{MinVersion: "TLS12", MaxVersion: "TLS13"}}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	switch err := d.Decode(f); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("it is empty")
	case err != nil:
		return nil, yamlReason(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it must be one document: remove the line --- and all lines after it")
	}
	all := sha256.New()
	all.Write(text)
	for _, from := range []struct {
		key      string
		name, to *string
	}{
		{"cert_file", &f.TLS.CertFile, &f.TLS.Cert},
		{"key_file", &f.TLS.KeyFile, &f.TLS.Key},
		{"client_ca_file", &f.TLS.ClientCAFile, &f.TLS.ClientCA},
	} {
		if *from.name == "" {
			continue
		}
		if !filepath.IsAbs(*from.name) {
			*from.name = filepath.Join(filepath.Dir(name), *from.name)
		}
		text, err := ReadFile(*from.name, MaxFile, false)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", from.key, *from.name, err)
		}
		fmt.Fprintf(all, "\x00%s\x00%d\x00", from.key, len(text))
		all.Write(text)
		*from.to, *from.name = string(text), ""
	}
	all.Sum(f.content[:0])
	return f, nil
}

// yamlReason returns a parser's error in one line, without the names of Go's
// types and without values, which may be passwords.
func yamlReason(err error) error {
	text := regexp.MustCompile(` in type \S+`).ReplaceAllString(err.Error(), "")
	text = regexp.MustCompile(`cannot unmarshal .* into \S+`).ReplaceAllString(text, "the value is of the wrong kind")
	text = strings.TrimPrefix(text, "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n")
	return errors.New(strings.Join(strings.Fields(text), " "))
}

// The names of values in tls_server_config.
var (
	tlsVersions = map[string]uint16{"TLS10": tls.VersionTLS10, "TLS11": tls.VersionTLS11, "TLS12": tls.VersionTLS12, "TLS13": tls.VersionTLS13}
	tlsCurves   = map[string]tls.CurveID{"CurveP256": tls.CurveP256, "CurveP384": tls.CurveP384, "CurveP521": tls.CurveP521, "X25519": tls.X25519}
	clientAuths = map[string]tls.ClientAuthType{
		"": tls.NoClientCert, "NoClientCert": tls.NoClientCert, "RequestClientCert": tls.RequestClientCert,
		"RequireAnyClientCert": tls.RequireAnyClientCert, "RequireClientCert": tls.RequireAnyClientCert, // an old name
		"VerifyClientCertIfGiven": tls.VerifyClientCertIfGiven, "RequireAndVerifyClientCert": tls.RequireAndVerifyClientCert,
	}
)

// named returns the value with this name, or an error that says what kind of value it is.
func named[T any](kind, name string, values map[string]T) (T, error) {
	value, ok := values[name]
	if !ok {
		return value, fmt.Errorf("unknown %s: %s", kind, quote(name))
	}
	return value, nil
}

// isSet reports whether the section asks for TLS.
func (t *tlsSection) isSet() bool { return t.Cert+t.Key+t.ClientCA+t.ClientAuth != "" }

// config returns the configuration of TLS, after the files have been read, or nil if the
// section asks for no TLS.
func (t *tlsSection) config() (_ *tls.Config, err error) {
	c := &tls.Config{NextProtos: []string{"http/1.1"}}
	var all [3]error
	c.MinVersion, all[0] = named("min_version", t.MinVersion, tlsVersions)
	c.MaxVersion, all[1] = named("max_version", t.MaxVersion, tlsVersions)
	c.ClientAuth, all[2] = named("client_auth_type", t.ClientAuth, clientAuths)
	suites := make(map[string]uint16)
	for _, s := range tls.CipherSuites() {
		suites[s.Name] = s.ID
	}
	if err := errors.Join(all[:]...); err != nil {
		return nil, err
	}
	for _, name := range t.Ciphers {
		id, err := named("cipher", name, suites)
		if err != nil {
			return nil, err
		}
		c.CipherSuites = append(c.CipherSuites, id)
	}
	for _, name := range t.Curves {
		id, err := named("curve", name, tlsCurves)
		if err != nil {
			return nil, err
		}
		c.CurvePreferences = append(c.CurvePreferences, id)
	}
	switch {
	case !t.isSet() && (len(t.Ciphers)+len(t.Curves)+len(t.AllowedSans) > 0 || c.MinVersion != tls.VersionTLS12 || c.MaxVersion != tls.VersionTLS13):
		return nil, errors.New("it has no effect without cert_file and key_file")
	case !t.isSet():
		return nil, nil
	case t.Cert == "":
		return nil, errors.New("missing one of cert or cert_file")
	case t.Key == "":
		return nil, errors.New("missing one of key or key_file")
	case c.MinVersion > c.MaxVersion:
		return nil, fmt.Errorf("min_version %s must not be more than max_version %s, or no client can connect", tls.VersionName(c.MinVersion), tls.VersionName(c.MaxVersion))
	}
	pair, err := tls.X509KeyPair([]byte(t.Cert), []byte(t.Key))
	if err != nil {
		return nil, err
	}
	c.Certificates = []tls.Certificate{pair}
	return c, t.clients(c)
}

// clients applies the rules for the certificates of clients.
func (t *tlsSection) clients(c *tls.Config) error {
	if t.ClientCA != "" {
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM([]byte(t.ClientCA)) {
			return errors.New("client_ca has no certificate (PEM)")
		}
		if c.ClientAuth == tls.NoClientCert {
			return errors.New("client_ca has no effect without client_auth_type: RequireAndVerifyClientCert")
		}
	}
	if t.AllowedSans == nil {
		return nil
	}
	if len(t.AllowedSans) > 0 && c.ClientAuth == tls.NoClientCert {
		return errors.New("client_allowed_sans has no effect without client_auth_type: RequireAndVerifyClientCert")
	}
	if len(t.AllowedSans) == 0 || slices.Contains(t.AllowedSans, "") {
		return errors.New("client_allowed_sans must name at least one client, and each name must not be empty")
	}
	c.VerifyPeerCertificate = t.verify
	return nil
}

// verify returns an error if a client's certificate has none of the allowed names. A client
// without a certificate is a matter of client_auth_type.
func (t *tlsSection) verify(raw [][]byte, _ [][]*x509.Certificate) error {
	if len(raw) == 0 {
		return nil
	}
	cert, err := x509.ParseCertificate(raw[0])
	if err != nil {
		return err
	}
	names := slices.Concat(cert.DNSNames, cert.EmailAddresses)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	for _, uri := range cert.URIs {
		names = append(names, uri.String())
	}
	if !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(t.AllowedSans, name) }) {
		return errors.New("the client's certificate has none of the names in client_allowed_sans")
	}
	return nil
}
