package config

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/push"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Check returns all problems of c, in the order of the options. It returns none if
// serve accepts c. It changes nothing.
func (c Config) Check() []Problem {
	return c.check(thisMachine(), time.Now())
}

// check is Check for a given machine and time.
func (c Config) check(m machine, now time.Time) []Problem {
	v := validator{defaults: make(map[string]string), now: now}
	order := make(map[string]int)
	for i, o := range Options() {
		v.defaults[o.Name], order[o.Name] = o.Default, i
		v.bounds(o, reflect.ValueOf(c).Field(i))
		if o.Values != nil {
			v.oneOf(o.Name, reflect.ValueOf(c).Field(i).String(), o.Values...)
		}
	}
	v.address("listen", c.Listen)
	if path, ok := UnixPath(c.MetricsListen); ok {
		v.unixSocket("metrics-listen", path)
	} else {
		v.address("metrics-listen", c.MetricsListen)
	}
	v.apart(c)
	v.exposure(c, m)
	for _, h := range c.MetricsHosts {
		v.host("metrics-hosts", h)
	}
	for _, o := range c.AllowedOrigins {
		v.origin("allowed-origins", o)
	}
	v.proxies(c)
	v.access(c)
	v.verifier(c)
	v.tls(c)
	if c.MemoryLimit != 0 {
		within(&v, "memory-limit", c.MemoryLimit, 32<<20, 1<<50)
	}
	if m.filesKnown && m.files < leastFiles {
		v.add("max-conns", display(c.MaxConns), fmt.Sprintf("is impossible with a limit of %d open files", m.files),
			fmt.Sprintf("allow %d or more (ulimit -n, LimitNOFILE=)", leastFiles))
	}
	within(&v, "phone-message", c.PhoneMessage, 1<<10, relay.MaxPhoneMessage) // daemons close the connection after a message of 1 MiB
	if c.BinaryMessage > c.PhoneOutbox {
		v.add("binary-message", c.BinaryMessage.String(), "must not be more than --phone-outbox, "+c.PhoneOutbox.String(),
			"the relay cannot deliver a longer message")
	}
	if c.DrainSpread > 0 && c.DrainSpread >= c.Drain {
		v.add("drain-spread", cli.TextOf(c.DrainSpread), "must be less than --drain, "+cli.TextOf(c.Drain),
			"make --drain a few seconds longer than the spread, for the last closes")
	}
	v.push(c)
	v.cluster(c)
	if c.StateDir != "" {
		v.ownDir("state-dir", c.StateDir, ownDir{closed: "it has the bans and their reasons", writable: "without it a restart forgets bans"})
	}
	v.serverIDs(c)
	slices.SortStableFunc(v.problems, func(a, b Problem) int { return order[a.Option] - order[b.Option] })
	return v.problems
}

type validator struct {
	defaults map[string]string
	now      time.Time
	problems []Problem
}

func (v *validator) add(option, value, rule, fix string) {
	v.problems = append(v.problems, Problem{Option: option, Value: value, Rule: rule, Fix: fix})
}

// bounds checks that value is within the bounds of o, if o has bounds.
func (v *validator) bounds(o *cli.Option, value reflect.Value) {
	if o.Most == "" {
		return
	}
	bound := func(text string) reflect.Value {
		b := reflect.New(value.Type()).Elem()
		if err := cli.SetText(b, text); err != nil {
			panic(fmt.Sprintf("bounds of --%s: %v", o.Name, err)) // a test parses them all
		}
		return b
	}
	least, most := bound(o.Least), bound(o.Most)
	if value.CanFloat() {
		within(v, o.Name, value.Float(), least.Float(), most.Float())
	} else if value.Int() < least.Int() || value.Int() > most.Int() {
		v.outside(o.Name, value.Interface(), least.Interface(), most.Interface())
	}
}

// within checks that low <= value <= high.
func within[T cmp.Ordered](v *validator, option string, value, low, high T) {
	if value >= low && value <= high { // false for NaN
		return
	}
	v.outside(option, value, low, high)
}

// outside adds the problem of a value that is not within its bounds.
func (v *validator) outside(option string, value, low, high any) {
	v.add(option, display(value), fmt.Sprintf("must be from %s to %s", display(low), display(high)),
		"the default is "+v.defaults[option])
}

// display returns value in the form in which an operator writes it.
func display(value any) string { return withoutUsers(cli.TextOf(value)) }

// withoutUsers returns value, which may be a list, with the user part of each URL
// withheld. It may have a password.
func withoutUsers(value string) string {
	all := strings.Split(value, ",")
	for i, one := range all {
		scheme, rest, isURL := strings.Cut(one, "://")
		if at := strings.LastIndexByte(rest, '@'); isURL && at >= 0 {
			all[i] = scheme + "://" + Withheld + rest[at:]
		}
	}
	return strings.Join(all, ",")
}

func (v *validator) address(option, value string) {
	_, port, err := net.SplitHostPort(value)
	if n, perr := strconv.ParseUint(port, 10, 16); err == nil && perr == nil && n <= 65535 {
		return
	}
	v.add(option, value, "must be host:port with a port from 0 to 65535",
		"for example "+v.defaults[option]+" for this machine only or :"+v.defaults[option][strings.LastIndex(v.defaults[option], ":")+1:]+" for all its addresses")
}

// origin checks that value is an origin in the form in which browsers send it. Another
// form never matches.
func (v *validator) origin(option, value string) {
	const rule = "must be scheme://host or scheme://host:port in small letters, with nothing after it"
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Scheme == "" || u.Host == "" || value != strings.ToLower(u.Scheme+"://"+u.Host):
		v.add(option, value, rule, "for example https://app.example.com")
	case !aPort(u.Port()):
		v.add(option, value, "must have a port from 1 to 65535, or none", "for example https://app.example.com:8443")
	case strings.Contains(u.Host, "*"):
		v.add(option, value, "must be one origin: a star is no wildcard", "name each, for example https://app.example.com")
	case u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80" || strings.HasSuffix(u.Host, ":"):
		v.add(option, value, "must not have the default port, which browsers omit", "write "+u.Scheme+"://"+u.Hostname())
	case strings.ContainsFunc(u.Host, func(r rune) bool { return r > unicode.MaxASCII }):
		v.add(option, value, "must have its host in the form that browsers send: in ASCII, beginning with xn--", "for example https://xn--bcher-kva.example")
	}
}

// aPort reports whether port is a number from 1 to 65535, or empty, which means the
// default.
func aPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

func (v *validator) oneOf(option, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	v.add(option, value, "must be "+strings.Join(allowed[:len(allowed)-1], ", ")+" or "+allowed[len(allowed)-1],
		"the default is "+v.defaults[option])
}

// maxCredentials is the limit on the file of a service account, in bytes. Such files
// have about 2,400.
const maxCredentials = 64 << 10

// credentials parses --fcm-credentials. It returns nil if the option is empty. No part
// of the credentials is in an error.
func (c Config) credentials() (*push.Credentials, error) {
	if c.FCMCredentials == "" {
		return nil, nil
	}
	text := []byte(c.FCMCredentials)
	if name, ok := strings.CutPrefix(c.FCMCredentials, "@"); ok {
		var err error
		if text, err = ReadFile(name, maxCredentials, false); err != nil {
			return nil, fmt.Errorf("must name a file that can be read (%q: %w)", name, err)
		}
	}
	return push.ParseCredentials(text)
}

// push checks the options of push wakes.
func (v *validator) push(c Config) {
	if _, err := c.credentials(); err != nil {
		v.add("fcm-credentials", c.FCMCredentials, err.Error(),
			"give the service account's JSON from the Firebase console, or @ and the path of a file with it")
	}
	if !push.Endpoint(c.FCMEndpoint) || strings.HasSuffix(c.FCMEndpoint, "/") {
		v.add("fcm-endpoint", c.FCMEndpoint, "must be an https:// URL without a slash at its end, or an http:// one on this machine",
			"the default is "+v.defaults["fcm-endpoint"])
	}
}

// Account returns the service account for push wakes, or nil if c has none. Check must
// have accepted c. An error means that the file has changed since.
func (c Config) Account() (*push.Credentials, error) {
	a, err := c.credentials()
	if err != nil {
		return nil, &Error{Problems: []Problem{{Option: "fcm-credentials", Rule: err.Error()}}}
	}
	return a, nil
}

// Values of --log-server-ids.
const (
	FingerprintServerIDs = "fingerprint"
	FullServerIDs        = "full"
)

// minLogKey is the length of the shortest key of fingerprints in bytes. A shorter key
// can be guessed.
const minLogKey = 16

// ReadLogKey reads the file of --log-key-file and removes blanks around the key. The
// error does not name the file.
func ReadLogKey(name string) ([]byte, error) {
	text, err := ReadFile(name, MaxFile, false)
	if err != nil {
		return nil, err
	}
	if text = bytes.TrimSpace(text); len(text) < minLogKey {
		return nil, fmt.Errorf("it has %d bytes", len(text))
	}
	return text, nil
}

// serverIDs checks --log-key-file.
func (v *validator) serverIDs(c Config) {
	if c.LogKeyFile == "" {
		return
	}
	if c.LogServerIDs == FullServerIDs {
		v.add("log-key-file", c.LogKeyFile, "has no use with --log-server-ids full", "leave out one or the other")
		return
	}
	if _, err := ReadLogKey(c.LogKeyFile); err != nil {
		v.add("log-key-file", c.LogKeyFile, fmt.Sprintf("must be a file with at least %d random bytes that this user can read (%v)", minLogKey, err), "for example: (umask 077; head -c 32 /dev/urandom | base64 >FILE)")
	}
}

// host checks that value is a host name in the form of a Host header, without a port.
func (v *validator) host(option, value string) {
	if value != HostName(value) || value == "" || strings.ContainsFunc(value, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	}) {
		v.add(option, value, "must be a host name in small letters, without a port: a star is no wildcard", "for example prometheus.internal; IP addresses are always allowed")
	}
}
