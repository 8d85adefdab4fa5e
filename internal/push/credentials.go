package push

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"

	"golang.org/x/oauth2/jwt"
)

// scope is the only permission that the relay requests for the service account.
const scope = "https://www.googleapis.com/auth/firebase.messaging"

// Credentials are a service account that may send through FCM. Printing them shows only
// the id of their project.
type Credentials struct {
	project string
	account jwt.Config
}

// String returns the id of the project, which is not secret.
func (c *Credentials) String() string { return c.project }

// GoString returns the id of the project.
func (c *Credentials) GoString() string { return c.project }

// equal reports whether c and o are the same account and key. Both may be nil.
func (c *Credentials) equal(o *Credentials) bool {
	if c == nil || o == nil {
		return c == o
	}
	return c.project == o.project && c.account.Email == o.account.Email && c.account.TokenURL == o.account.TokenURL &&
		c.account.PrivateKeyID == o.account.PrivateKeyID && bytes.Equal(c.account.PrivateKey, o.account.PrivateKey)
}

// projectID matches my-project and example.com:my-project.
var projectID = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]{2,98}[a-z0-9]$`)

// ParseCredentials parses the JSON file of a service account from the Firebase console.
// An error states the rule that text breaks, and quotes no part of text.
func ParseCredentials(text []byte) (*Credentials, error) {
	var file struct {
		Type       string `json:"type"`
		ProjectID  string `json:"project_id"`
		KeyID      string `json:"private_key_id"`
		PrivateKey string `json:"private_key"`
		Email      string `json:"client_email"`
		TokenURI   string `json:"token_uri"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, errors.New("must be one JSON object with only strings as values")
	}
	for _, f := range []struct {
		name string
		ok   bool
		rule string // completes "must have a field NAME that is"
	}{
		{"type", file.Type == "service_account", `"service_account"`},
		{"project_id", projectID.MatchString(file.ProjectID), "the id of a project"},
		{"private_key", rsaKey(file.PrivateKey), "an RSA key in PEM"},
		{"client_email", file.Email != "", "not empty"},
		{"token_uri", Endpoint(file.TokenURI), "an https:// URL"},
	} {
		if !f.ok {
			return nil, fmt.Errorf("must have a field %s that is %s", f.name, f.rule)
		}
	}
	return &Credentials{project: file.ProjectID, account: jwt.Config{
		Email:        file.Email,
		PrivateKey:   []byte(file.PrivateKey),
		PrivateKeyID: file.KeyID,
		Scopes:       []string{scope},
		TokenURL:     file.TokenURI,
	}}, nil
}

// rsaKey reports whether text is a key with which package oauth2 can sign.
func rsaKey(text string) bool {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return false
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	_, ok := key.(*rsa.PrivateKey)
	return err == nil && ok
}

// Endpoint reports whether the relay may send secrets to a URL: it must use TLS or name a
// loopback host, and it must not have a user, a query or a fragment.
func Endpoint(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	if u.Scheme == "http" {
		ip, err := netip.ParseAddr(u.Hostname())
		return u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	}
	return u.Scheme == "https"
}
