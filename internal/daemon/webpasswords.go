package daemon

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"maps"
	"net/http"
	"sync"

	"golang.org/x/crypto/bcrypt"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// mostWaiting is the limit on requests that wait for the comparison of their password.
// Comparisons are made one after the other.
const mostWaiting = 64

// passwords compares the passwords of requests with hashes, one at a time, and remembers
// the correct ones. One passwords serves all versions of --web.config.file, so that
// users with unchanged hashes do not wait after a change of the file.
type passwords struct {
	compare chan struct{}     // holds one token while a password is compared
	waiting chan struct{}     // holds a token for each request that compares or waits for it
	salt    [sha256.Size]byte // of the digests

	mu   sync.Mutex
	good map[string]goodPassword // by user
}

// goodPassword is a password that was correct for a hash.
type goodPassword struct {
	hash   []byte
	digest []byte // of the password
}

func newPasswords() *passwords {
	p := &passwords{compare: make(chan struct{}, 1), waiting: make(chan struct{}, mostWaiting), good: make(map[string]goodPassword)}
	_, _ = rand.Read(p.salt[:]) // it never fails
	return p
}

// digest returns the digest that p stores instead of a password.
func (p *passwords) digest(password string) []byte {
	d := hmac.New(sha256.New, p.salt[:])
	d.Write([]byte(password))
	return d.Sum(nil)
}

// remembers reports whether digest is that of a password that was correct for hash, which
// must be the user's.
func (p *passwords) remembers(user string, hash, digest []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	g, ok := p.good[user]
	return ok && bytes.Equal(g.hash, hash) && hmac.Equal(g.digest, digest)
}

// remember stores the digest of a correct password, and forgets users that are no longer
// in users. It stores one password per user, so that no client can fill the memory.
func (p *passwords) remember(users map[string][]byte, user string, digest []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.good, func(name string, _ goodPassword) bool { return users[name] == nil })
	p.good[user] = goodPassword{users[user], digest}
}

// admit returns 200 if the request has the password of a user of c, 401 if it does not,
// and 503 if too many requests wait for a comparison. It takes the same time for unknown
// users.
func (p *passwords) admit(r *http.Request, c *config.Web) int {
	if len(c.Users) == 0 {
		return http.StatusOK
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		return http.StatusUnauthorized
	}
	hash, known := c.Users[user]
	digest := p.digest(password)
	if known && p.remembers(user, hash, digest) {
		return http.StatusOK
	}
	select {
	case p.waiting <- struct{}{}:
		defer func() { <-p.waiting }()
	default:
		return http.StatusServiceUnavailable
	}
	select {
	case p.compare <- struct{}{}:
		defer func() { <-p.compare }()
	case <-r.Context().Done():
		return http.StatusServiceUnavailable
	}
	if known && p.remembers(user, hash, digest) { // it was compared meanwhile
		return http.StatusOK
	}
	if !known {
		hash = c.Decoy
	}
	if err := bcrypt.CompareHashAndPassword(hash, []byte(password)); err != nil || !known {
		return http.StatusUnauthorized
	}
	p.remember(c.Users, user, digest)
	return http.StatusOK
}
