package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
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

// Unusable returns the rule that a certificate breaks and the remedy, if every client
// refuses it. It returns two empty strings for a usable certificate. The start of the
// relay refuses an unusable certificate, and a reload keeps the previous one.
func Unusable(leaf *x509.Certificate, now time.Time) (rule, fix string) {
	const form = "2006-01-02 15:04 MST"
	switch {
	case !now.Before(leaf.NotAfter):
		return "must not have expired, and this certificate expired on " + leaf.NotAfter.UTC().Format(form), "get a new one"
	case now.Before(leaf.NotBefore):
		return "must be valid already, and this certificate is valid from " + leaf.NotBefore.UTC().Format(form) + " on", "is this machine's clock right?"
	case len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0:
		return "must name its hosts, and this certificate names none (subjectAltName)", "get one with the relay's name in it; clients ignore the common name"
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

// HostName returns the name in a Host header in small letters, without port, brackets
// and final dot.
func HostName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// tls checks the options of the certificate.
func (v *validator) tls(c Config) {
	if c.Domain != "" && (c.TLSCert != "" || c.TLSKey != "") {
		v.add("domain", c.Domain, "contradicts --tls-cert and --tls-key", "leave out one or the other: a certificate comes from an authority or from files")
		return
	}
	if c.Domain != "" {
		v.acme(c)
		return
	}
	for _, o := range []struct{ name, value string }{{"acme-dir", c.ACMEDir}, {"acme-email", c.ACMEEmail}} {
		if o.value != "" {
			v.add(o.name, o.value, "has no use without --domain", "give --domain, or leave it out")
		}
	}
	for _, o := range []struct{ name, value string }{{"acme-directory", c.ACMEDirectory}, {"http-listen", c.HTTPListen}} {
		if o.value != v.defaults[o.name] {
			v.add(o.name, o.value, "has no use without --domain", "give --domain, or leave it out")
		}
	}
	switch {
	case c.TLSCert != "" && c.TLSKey == "":
		v.pemFile("tls-cert", c.TLSCert)
		v.add("tls-key", "", "must be given with --tls-cert", "name the file of the certificate's key")
	case c.TLSCert == "" && c.TLSKey != "":
		v.add("tls-cert", "", "must be given with --tls-key", "name the file of the key's certificate")
		v.pemFile("tls-key", c.TLSKey)
	case c.TLSCert != "":
		_, _, pair, err := ReadPair(c.TLSCert, c.TLSKey)
		if err != nil {
			v.add("tls-cert", c.TLSCert, fmt.Sprintf("must be a certificate, and --tls-key its key (%v)", err), "both are PEM files that this user can read")
			return
		}
		if rule, fix := Unusable(pair.Leaf, v.now); rule != "" {
			v.add("tls-cert", c.TLSCert, rule, fix)
		}
	}
}

// pemFile checks that the file of an option can be read. It is for a certificate
// without a key, or a key without a certificate: only a pair can be checked further.
func (v *validator) pemFile(option, name string) {
	if _, err := ReadFile(name, MaxFile, false); err != nil {
		v.add(option, name, fmt.Sprintf("must be a PEM file that this user can read (%v)", err), "is that its name?")
	}
}

// aHostName matches a name that can be in a certificate and in a Host header.
var aHostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$`)

// acme checks the options that --domain needs.
func (v *validator) acme(c Config) {
	name := HostName(c.Domain)
	if _, err := netip.ParseAddr(name); err == nil || name != strings.ToLower(c.Domain) || !aHostName.MatchString(name) {
		v.add("domain", c.Domain, "must be a host name and nothing else, in the form that clients send", "for example relay.example.com, or xn--bcher-kva.example for bücher.example")
	} else if len(name) > 253 || slices.ContainsFunc(strings.Split(name, "."), func(label string) bool { return len(label) > 63 }) {
		v.add("domain", c.Domain, "must have at most 253 characters, and at most 63 between two dots, as DNS demands", "for example relay.example.com")
	}
	if u, err := url.Parse(c.ACMEDirectory); err != nil || u.Scheme != "https" || u.Hostname() == "" || !aPort(u.Port()) {
		v.add("acme-directory", c.ACMEDirectory, "must be an https:// URL", "the default is "+v.defaults["acme-directory"])
	}
	if c.ACMEEmail != "" {
		if a, err := mail.ParseAddress(c.ACMEEmail); err != nil || a.Address != c.ACMEEmail {
			v.add("acme-email", c.ACMEEmail, "must be a mail address and nothing else", "for example admin@example.com")
		}
	}
	if c.HTTPListen != "" {
		v.address("http-listen", c.HTTPListen)
	}
	if c.ACMEDir == "" {
		v.add("acme-dir", "", "must be given with --domain", "for example /var/lib/pyrycode-relay, on a disk that survives restarts")
		return
	}
	v.ownDir("acme-dir", c.ACMEDir, ownDir{
		closed:   "there are private keys in it",
		writable: "without it every restart asks for a new certificate, until the authority refuses",
	})
}

// ownDir says why a directory must be as checkOwnDir demands.
type ownDir struct{ closed, writable string }

// ownDir checks the directory of an option with checkOwnDir.
func (v *validator) ownDir(option, dir string, why ownDir) {
	type finding struct{ rule, fix string }
	f, err := inTime(dir, func() (finding, error) {
		rule, fix := checkOwnDir(dir, why)
		return finding{rule, fix}, nil
	})
	if err != nil {
		f = finding{fmt.Sprintf("must be readable (%v)", err), "name another, or repair the file system"}
	}
	if f.rule != "" {
		v.add(option, dir, f.rule, f.fix)
	}
}

// checkOwnDir checks a directory of the relay, and changes nothing. The directory must be
// readable and writable for this user alone, or it must be possible to create it.
// checkOwnDir returns the broken rule and the remedy.
func checkOwnDir(dir string, why ownDir) (rule, fix string) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return checkCanMake(dir)
	}
	if err != nil {
		return fmt.Sprintf("must be a directory, or it must be possible to create it (%v)", pathReason(err)), "create it, for this user alone (mode 0700)"
	}
	if !info.IsDir() {
		return "must be a directory", "name another; the relay makes it if it does not exist"
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Sprintf("must be closed to other users, and its mode is %04o", mode), "chmod 0700: " + why.closed
	}
	if !ownedByUs(info) {
		return "must belong to the user that the relay runs as, and it belongs to another than the user of this process", "chown it; to check the configuration of another user, run check as that user"
	}
	if err := mayAccess(dir, true); err != nil {
		return fmt.Sprintf("must be writable (%v)", err), why.writable
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Sprintf("must be readable (%v)", pathReason(err)), "give it to this user"
	}
	for _, e := range entries { // the relay would request an unreadable certificate again and again
		name := filepath.Join(dir, e.Name())
		info, err := os.Stat(name)
		if err == nil && !info.IsDir() {
			if rule := notRegular(info); rule != "" {
				err = errors.New(rule)
			}
		}
		if err == nil {
			err = mayAccess(name, false)
		}
		if err != nil {
			return fmt.Sprintf("must be readable, and %s is not (%v)", e.Name(), pathReason(err)), "give it to this user, or remove it"
		}
	}
	return "", ""
}

// checkCanMake checks that this user can create dir, in the nearest directory above it
// that exists.
func checkCanMake(dir string) (rule, fix string) {
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Sprintf("must be a directory, or it must be possible to create it, and %s is a symbolic link to nothing", dir), "create the target of the link, or remove the link"
	}
	above := filepath.Dir(filepath.Clean(dir))
	info, err := os.Stat(above)
	if errors.Is(err, fs.ErrNotExist) && above != filepath.Dir(above) {
		return checkCanMake(above)
	}
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", above)
	}
	if err == nil {
		if err = mayAccess(above, true); err != nil {
			err = fmt.Errorf("%s: %w", above, err)
		}
	}
	if err != nil {
		return fmt.Sprintf("must be a directory, or it must be possible to create it (%v)", pathReason(err)), "create it, for this user alone (mode 0700)"
	}
	return "", ""
}

// MakeACMEDir creates the directory of --acme-dir. Check must have accepted c.
func (c Config) MakeACMEDir() error {
	if err := os.MkdirAll(c.ACMEDir, 0o700); err != nil {
		return &Error{Problems: []Problem{{Option: "acme-dir", Value: c.ACMEDir, Rule: fmt.Sprintf("must be a directory, or it must be possible to create it (%v)", pathReason(err)), Fix: "create it, for this user alone (mode 0700)"}}}
	}
	return nil
}
