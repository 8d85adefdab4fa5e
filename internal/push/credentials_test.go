package push

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
)

func TestCredentials(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key())})
	const noKey = "must have a field private_key that is an RSA key in PEM"
	const noURL = "must have a field token_uri that is an https:// URL"
	for _, tt := range []struct {
		name, text, want string
	}{
		{"good", string(accountFile()), ""},
		{"with a PKCS #1 key", string(accountFile("private_key", string(pkcs1))), ""},
		{"of a domain's project", string(accountFile("project_id", "example.com:pyry-1")), ""},
		{"without a key's id", string(accountFile("private_key_id", nil)), ""},
		{"empty", "", "must be one JSON object with only strings as values"},
		{"a path", "/etc/CANARY.json", "must be one JSON object with only strings as values"},
		{"twice", string(accountFile()) + string(accountFile()), "must be one JSON object with only strings as values"},
		{"a field of another type", string(accountFile("private_key", 7)), "must be one JSON object with only strings as values"},
		{"another kind", string(accountFile("type", "CANARY")), `must have a field type that is "service_account"`},
		{"no project", string(accountFile("project_id", nil)), "must have a field project_id that is the id of a project"},
		{"a project that is a path", string(accountFile("project_id", "CANARY/../x")), "must have a field project_id that is the id of a project"},
		{"no key", string(accountFile("private_key", nil)), noKey},
		{"a key that is none", string(accountFile("private_key", "CANARY")), noKey},
		{"PEM that is none", string(accountFile("private_key", "-----BEGIN PRIVATE KEY-----\nQ0FO\n-----END PRIVATE KEY-----\n")), noKey},
		{"an EC key", string(accountFile("private_key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))), noKey},
		{"no address", string(accountFile("client_email", nil)), "must have a field client_email that is not empty"},
		{"no token endpoint", string(accountFile("token_uri", nil)), noURL},
		{"a token endpoint without TLS", string(accountFile("token_uri", "http://CANARY.example/token")), noURL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := ParseCredentials([]byte(tt.text))
			if got := fmt.Sprint(err); err != nil && got != tt.want || (err == nil) != (tt.want == "") {
				t.Errorf("ParseCredentials() = %v; want %s", err, tt.want)
			}
			if err == nil {
				noCanary(t, fmt.Sprintf("%v %+v %#v %s", c, c, c, c))
				if !strings.Contains(fmt.Sprint(c), "pyry-1") {
					t.Errorf("they print as %v", c)
				}
			}
		})
	}
}

func TestSecretsGoToThisMachineOrUnderTLSOnly(t *testing.T) {
	for url, want := range map[string]bool{
		"https://fcm.googleapis.com": true, "https://fcm.example.com:8443/x": true,
		"http://127.0.0.1:1": true, "http://[::1]:1/t": true, "http://localhost:1": true,
		"http://fcm.googleapis.com": false, "http://127.0.0.1.example.com": false, "http://10.0.0.1": false,
		"": false, "https://": false, "fcm.googleapis.com": false, "https://user:pass@h": false, "https://h?x": false, "https://h#x": false,
		"ftp://h": false, "https://h:port": false,
	} {
		if got := Endpoint(url); got != want {
			t.Errorf("Endpoint(%q) = %t; want %t", url, got, want)
		}
	}
}
