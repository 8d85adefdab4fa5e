package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/crypto/bcrypt"

	"github.com/pyrycode/pyrycode-relay/internal/certtest"
)

// hashOf returns a hash of password with the lowest cost.
func hashOf(t *testing.T, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

// A file alone is no protection: its rules for clients decide.
func TestAWebConfigIsJudgedByItsContent(t *testing.T) {
	a, dir := certtest.New(t), t.TempDir()
	a.Issue(dir, "relay.test")
	users := "basic_auth_users:\n  op: " + hashOf(t, "secret") + "\n"
	tls := "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n" // next to the file
	clients := tls + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n"
	hash := hashOf(t, "secret")
	hash = hash[:59] + "."
	const damaged = `the bcrypt hash of "op" is damaged`
	const asks = "must ask for a password or a client's certificate"
	for _, tt := range []struct {
		name, text     string
		loopback, open string // what the rule says; empty: accepted
	}{
		{"empty", "", "it is empty", "it is empty"},
		{"comments only", "# nothing\n", "it is empty", "it is empty"},
		{"an empty document", "---\n", "it sets nothing", "it sets nothing"},
		{"empty sections", "tls_server_config: {}\nbasic_auth_users: {}\n", "it sets nothing", "it sets nothing"},
		{"a typo", "basic_auth_user:\n  op: x\n", "line 1: field basic_auth_user not found", "line 1: field basic_auth_user not found"},
		{"a password in the wrong place", "basic_auth_users: CANARY\n", "(line 1: the value is of the wrong kind)", "(line 1: the value is of the wrong kind)"},
		{"no YAML", "basic_auth_users: [\n", "did not find expected node content", "did not find expected node content"},
		{"two documents", users + "---\n", "must be one document", "must be one document"},
		{"users", users, "", ""},
		{"a password in the clear", "basic_auth_users:\n  op: hunter2\n", `the password of "op" must be a bcrypt hash`, `the password of "op" must be a bcrypt hash`},
		{"a hash that is one character short", "basic_auth_users:\n  op: " + hash[:59] + "\n", damaged, damaged},
		{"a hash that is two characters long", "basic_auth_users:\n  op: " + hash + "..\n", damaged, damaged},
		{"a salt that is no base64", "basic_auth_users:\n  op: " + hash[:10] + "!!" + hash[12:] + "\n", damaged, damaged},
		{"a hash that no password has", "basic_auth_users:\n  op: " + hash[:59] + "9\n", damaged, damaged},
		{"a hash of an unknown version", "basic_auth_users:\n  op: " + strings.Replace(hash, "$2a$", "$2x$", 1) + "\n", damaged, damaged},
		{"a hash as PHP writes it", "basic_auth_users:\n  op: " + strings.Replace(hash, "$2a$", "$2y$", 1) + "\n", "", ""},
		{"a cost that is too low", "basic_auth_users:\n  op: " + strings.Replace(hash, "$04$", "$03$", 1) + "\n", damaged, damaged},
		{"a name with a colon", "basic_auth_users:\n  \"a:b\": " + hash + "\n", `the name "a:b" must have no colon`, `the name "a:b" must have no colon`},
		{"versions in the wrong order", tls + "  min_version: TLS13\n  max_version: TLS12\n" + users, "min_version TLS 1.3 must not be more than max_version TLS 1.2", "min_version TLS 1.3 must not be more than max_version TLS 1.2"},
		{"ciphers that the key cannot have", tls + "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n  max_version: TLS12\n" + users, "no client can connect: ", "no client can connect: "},
		{"old versions alone", tls + "  min_version: TLS10\n  max_version: TLS10\n" + users, "", ""},
		{"new versions alone", tls + "  min_version: TLS13\n" + users, "", ""},
		{"ciphers that the key can have", tls + "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n  max_version: TLS12\n" + users, "", ""},
		{"an empty list of names", clients + "  client_allowed_sans: []\n", "client_allowed_sans must name at least one", "client_allowed_sans must name at least one"},
		{"an empty name", clients + "  client_allowed_sans: [\"\"]\n", "each name must not be empty", "each name must not be empty"},
		{"a hash that takes minutes", "basic_auth_users:\n  op: " + strings.Replace(hashOf(t, "x"), "$04$", "$31$", 1) + "\n", "costs 31; at most 16", "costs 31; at most 16"},
		{"TLS", tls, "", asks},
		{"headers", "http_server_config:\n  headers:\n    X-Frame-Options: deny\n", "", asks},
		{"a rate", "rate_limit:\n  interval: 1s\n  burst: 1\n", "", asks},
		{"a rate that lets nothing through", "rate_limit:\n  interval: 1s\n", "rate_limit: interval 1s and burst 0", "rate_limit: interval 1s and burst 0"},
		{"a client's certificate", tls + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n", "", ""},
		{"a certificate of anybody", tls + "  client_auth_type: RequireAnyClientCert\n", "", asks},
		{"a certificate of any authority", tls + "  client_auth_type: RequireAndVerifyClientCert\n", "", asks},
		{"a certificate if there is one", tls + "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: cert.pem\n", "", asks},
		{"authorities that are none", tls + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: key.pem\n", "client_ca has no certificate", "client_ca has no certificate"},
		{"names without certificates", tls + "  client_allowed_sans: [prometheus]\n", "client_allowed_sans has no effect", "client_allowed_sans has no effect"},
		{"TLS without a certificate", "tls_server_config:\n  min_version: TLS13\n" + users, "tls_server_config: it has no effect without cert_file", "tls_server_config: it has no effect without cert_file"},
		{"a key without a certificate", "tls_server_config:\n  key_file: key.pem\n" + users, "missing one of cert or cert_file", "missing one of cert or cert_file"},
		{"no such certificate", strings.Replace(tls, "cert.pem", "none.pem", 1), "none.pem: no such file or directory", "none.pem: no such file or directory"},
		{"another certificate's key", strings.Replace(tls, "key.pem", "cert.pem", 1), "found a certificate rather than a key", "found a certificate rather than a key"},
		{"a version that does not exist", tls + "  min_version: TLS14\n" + users, `unknown min_version: "TLS14"`, `unknown min_version: "TLS14"`},
		{"a cipher that does not exist", tls + "  cipher_suites: [NONE]\n" + users, `unknown cipher: "NONE"`, `unknown cipher: "NONE"`},
		{"a curve", tls + "  curve_preferences: [CurveP256]\n" + users, "", ""},
		{"all the rest", tls + "  client_auth_type: NoClientCert\n  prefer_server_cipher_suites: true\nhttp_server_config:\n  http2: false\n" + users, "", ""},
		{"a header that is not allowed", "http_server_config:\n  headers:\n    Server: x\n", `the header "Server" cannot be set`, `the header "Server" cannot be set`},
		{"a header's value", "http_server_config:\n  headers:\n    X-Frame-Options: all\n", "X-Frame-Options must be deny or sameorigin", "X-Frame-Options must be deny or sameorigin"},
	} {
		file := filepath.Join(dir, "web.yml")
		write(t, file, tt.text)
		if err := web.Validate(file); err != nil && tt.loopback == "" {
			t.Errorf("%s: an exporter of Prometheus refuses it: %v", tt.name, err)
		}
		for listen, want := range map[string]string{"127.0.0.1:9090": tt.loopback, ":9090": tt.open} {
			c := Default()
			c.WebConfigFile, c.MetricsListen = file, listen
			got := ""
			for _, p := range c.check(machine{}, time.Now()) {
				got += p.Option + ": " + p.Rule
			}
			if want == "" && got != "" || want != "" && (!strings.HasPrefix(got, "web.config.file: ") || !strings.Contains(got, want)) {
				t.Errorf("%s at %s: %q; want %q", tt.name, listen, got, want)
			}
		}
	}
}

func TestProtectionIsOnlyAddedWhileTheProcessRuns(t *testing.T) {
	a, dir := certtest.New(t), t.TempDir()
	a.Issue(dir, "relay.test")
	users := "basic_auth_users:\n  op: " + hashOf(t, "secret") + "\n"
	tls := "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
	clients := tls + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n"
	headers := "http_server_config:\n  headers:\n    X-Frame-Options: deny\n"
	alice := "  client_allowed_sans: [alice]\n"
	given := strings.Replace(clients, "RequireAndVerifyClientCert", "VerifyClientCertIfGiven", 1)
	anyone := tls + "  client_auth_type: RequireAnyClientCert\n"
	limit := "rate_limit:\n  interval: 10s\n  burst: 2\n"
	for _, tt := range []struct{ from, to, want string }{
		{users, tls + users, ""}, {headers, users, ""}, {tls, clients, ""}, {users, users + headers, ""},
		{tls + users, users, "it no longer has tls_server_config"},
		{tls + users, tls, "it no longer has basic_auth_users"},
		{clients + users, tls + users, "it no longer has client_auth_type: RequireAndVerifyClientCert with client_ca_file"},
		{clients, clients + alice, ""}, {clients + alice, clients + "  client_allowed_sans: [bob]\n", ""},
		{clients + alice, clients, "it no longer has client_allowed_sans"},
		{clients + alice + users, strings.Replace(clients, "  client_ca_file: cert.pem\n", "", 1) + alice + users, "it no longer has client_ca_file"},
		{clients + alice + users, strings.Replace(clients, "RequireAndVerify", "RequireAny", 1) + alice + users, "it no longer has client_auth_type: RequireAndVerifyClientCert with client_ca_file"},
		{given + users, strings.Replace(given, "VerifyClientCertIfGiven", "RequireAnyClientCert", 1) + users, "its client_auth_type is RequireAnyClientCert, and was VerifyClientCertIfGiven"},
		{anyone + users, tls + users, "its client_auth_type is NoClientCert, and was RequireAnyClientCert"},
		{anyone + users, given + users, "its client_auth_type is VerifyClientCertIfGiven, and was RequireAnyClientCert"},
		{given + users, clients + users, ""}, {anyone + users, clients + users, ""},
		{tls, tls + "  min_version: TLS13\n", ""}, {tls + "  min_version: TLS11\n", tls, ""},
		{tls + "  min_version: TLS13\n", tls, "its min_version is TLS 1.2, and was TLS 1.3"},
		{tls, tls + "  min_version: TLS10\n", "its min_version is TLS 1.0, and was TLS 1.2"},
		{tls, tls + "  max_version: TLS12\n", "its max_version is TLS 1.2, and was TLS 1.3"},
		{users, users + limit, ""}, {users + limit, users + limit + headers, ""},
		{users + limit, users, "it no longer has rate_limit"},
		{users + limit, users + strings.Replace(limit, "10s", "1s", 1), "its rate_limit, interval 1s and burst 2, lets more through than before, interval 10s and burst 2"},
		{users + limit, users + strings.Replace(limit, "2", "3", 1), "its rate_limit, interval 10s and burst 3, lets more through than before, interval 10s and burst 2"},
		{users + limit, users + strings.Replace(limit, "10s", "1m", 1), ""},
	} {
		if tt.want != "" {
			tt.want += "; to remove protection, restart the relay"
		}
		c := Config{WebConfigFile: filepath.Join(dir, "web.yml")}
		write(t, c.WebConfigFile, tt.from)
		old, err := c.LoadWeb(nil)
		if err != nil {
			t.Fatal(err)
		}
		write(t, c.WebConfigFile, tt.to)
		got := ""
		if _, err := c.LoadWeb(old); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%q becomes %q: %q; want %q", tt.from, tt.to, got, tt.want)
		}
	}
}

// write writes a file, for this user alone.
func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
