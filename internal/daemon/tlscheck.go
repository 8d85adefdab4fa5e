package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// tls looks at where the certificate comes from.
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
		v.add("tls-key", "", "must be given with --tls-cert", "name the file of the certificate's key")
	case c.TLSCert == "" && c.TLSKey != "":
		v.add("tls-cert", "", "must be given with --tls-key", "name the file of the key's certificate")
	case c.TLSCert != "":
		if _, _, _, err := readPair(c.TLSCert, c.TLSKey); err != nil {
			v.add("tls-cert", c.TLSCert, fmt.Sprintf("must be a certificate, and --tls-key its key (%v)", err), "both are PEM files that this user can read")
		}
	}
}

// acme looks at what --domain needs.
func (v *validator) acme(c Config) {
	name := hostName(c.Domain)
	if _, err := netip.ParseAddr(name); err == nil || name != strings.ToLower(c.Domain) || !strings.Contains(name, ".") || strings.ContainsAny(name, "*_/:@ ") {
		v.add("domain", c.Domain, "must be a host name and nothing else", "for example relay.example.com")
	}
	if u, err := url.Parse(c.ACMEDirectory); err != nil || u.Scheme != "https" || u.Host == "" {
		v.add("acme-directory", c.ACMEDirectory, "must be an https:// URL", "the default is "+v.defaults["acme-directory"])
	}
	if c.ACMEEmail != "" {
		if a, err := mail.ParseAddress(c.ACMEEmail); err != nil || a.Address != c.ACMEEmail {
			v.add("acme-email", c.ACMEEmail, "must be a mail address and nothing else", "for example admin@example.com")
		}
	}
	if c.HTTPListen != "" {
		v.address("http-listen", c.HTTPListen)
		if !strings.HasSuffix(c.HTTPListen, ":0") && (c.HTTPListen == c.Listen || c.HTTPListen == c.MetricsListen) {
			v.add("http-listen", c.HTTPListen, "must differ from --listen and --metrics-listen", "authorities ask on port 80")
		}
	}
	if c.ACMEDir == "" {
		v.add("acme-dir", "", "must be given with --domain", "for example /var/lib/pyrycode-relay, on a disk that outlives restarts")
		return
	}
	if rule, fix := checkOwnDir(c.ACMEDir); rule != "" {
		v.add("acme-dir", c.ACMEDir, rule, fix)
	}
}

// checkOwnDir makes dir, or sees that it is a directory that this user alone
// can read and write: there are keys in it. It returns what is wrong, and
// what to do about it.
func checkOwnDir(dir string) (rule, fix string) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Sprintf("must be a directory or one that can be made (%v)", pathReason(err)), "make it, for this user alone (mode 0700)"
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Sprintf("must be readable (%v)", pathReason(err)), "give it to this user"
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Sprintf("must be closed to other users, and its mode is %04o", mode), "chmod 0700: there are private keys in it"
	}
	if !ownedByUs(info) {
		return "must belong to the user that the relay runs as", "chown it"
	}
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Sprintf("must be writable (%v)", pathReason(err)), "without it every restart asks for a new certificate, until the authority refuses"
	}
	f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Sprintf("must be writable (%v)", pathReason(err)), "give it to this user"
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Sprintf("must be readable (%v)", pathReason(err)), "give it to this user"
	}
	for _, e := range entries { // a certificate that cannot be read would be asked for again and again
		if rule := checkReadable(filepath.Join(dir, e.Name())); rule != "" {
			return rule, "give it to this user, or take it away"
		}
	}
	return "", ""
}

// checkReadable says that a file cannot be read, if so.
func checkReadable(name string) string {
	f, err := os.Open(name)
	if err == nil {
		var b [1]byte
		_, err = f.Read(b[:])
		f.Close()
	}
	if err == nil || errors.Is(err, io.EOF) {
		return ""
	}
	return fmt.Sprintf("must be readable, and %s is not (%v)", filepath.Base(name), pathReason(err))
}

// pathReason is err without the path, which is named already.
func pathReason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
