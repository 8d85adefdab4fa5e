package access

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Bindings has the token that first claimed each server-id. All methods may be called from
// any goroutine.
type Bindings struct {
	mu    sync.Locker // guards all below
	token map[Subject]Subject
	held  map[Subject]int // server-ids of each token
	dirty bool            // changed since the last call of Changes
}

// maxBindings limits the bindings of all tokens. Their file then has 26 MB, and MaxFile is
// more.
const maxBindings = 200_000

// newBindings returns bindings without an entry.
func newBindings(mu sync.Locker) *Bindings {
	return &Bindings{mu: mu, token: make(map[Subject]Subject), held: make(map[Subject]int)}
}

// check returns the decision about a claim of id with a token: allowed if id is bound to
// the token, or may be bound to it. maxIDs returns the number of server-ids that a token
// may have, or 0 for a token that is gone.
func (b *Bindings) check(id, token Subject, maxIDs func(token Subject) int) decision {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.decide(id, token, maxIDs)
}

// bind is check, and binds id to the token if the claim is allowed.
func (b *Bindings) bind(id, token Subject, maxIDs func(token Subject) int) decision {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.decide(id, token, maxIDs)
	if bound, ok := b.token[id]; d.ok() && (!ok || bound != token) {
		if ok {
			b.unset(id)
		}
		b.set(id, token)
	}
	return d
}

// decide is check with the lock held.
func (b *Bindings) decide(id, token Subject, maxIDs func(token Subject) int) decision {
	switch bound, ok := b.token[id]; {
	case ok && bound == token:
		return allowed
	case ok && maxIDs(bound) > 0:
		return boundToOther
	case b.held[token] >= maxIDs(token) || !ok && len(b.token) >= maxBindings:
		return tooManyIDs
	}
	return allowed
}

// unset removes the binding of id. b.mu is held.
func (b *Bindings) unset(id Subject) {
	token := b.token[id]
	delete(b.token, id)
	if b.held[token]--; b.held[token] == 0 {
		delete(b.held, token)
	}
	b.dirty = true
}

// set binds id, which is not bound, to token. b.mu is held.
func (b *Bindings) set(id, token Subject) {
	b.token[id] = token
	b.held[token]++
	b.dirty = true
}

// of returns the token of a server-id.
func (b *Bindings) of(id Subject) (token Subject, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	token, ok = b.token[id]
	return token, ok
}

// keep removes the server-ids of all tokens that have no entry.
func (b *Bindings) keep(entries map[Subject]Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, token := range b.token {
		if _, ok := entries[token]; !ok {
			b.unset(id)
		}
	}
}

// Changes returns the content of a file with all bindings, for Load. It returns nil if
// nothing has changed since the last call.
func (b *Bindings) Changes() []byte {
	b.mu.Lock()
	if !b.dirty {
		b.mu.Unlock()
		return nil
	}
	b.dirty = false
	lines := make([]string, 0, len(b.token)+1)
	for id, token := range b.token {
		lines = append(lines, id.String()+" "+token.String()+"\n")
	}
	b.mu.Unlock()
	slices.Sort(lines)
	return []byte(bindingsHeader + strings.Join(lines, "") + bindingsEnd)
}

// Failed makes the next call of Changes return the bindings again, because the last result
// could not be written.
func (b *Bindings) Failed() {
	b.mu.Lock()
	b.dirty = true
	b.mu.Unlock()
}

const (
	bindingsHeader = "# SHA-256 of each server-id, and of the token that first claimed it. The relay writes this file.\n"
	bindingsEnd    = "# end\n" // without it the file has been cut off
)

// Load adds the bindings in a file that has the content of Changes. Call it before the
// first book is put into force: that removes the bindings of tokens that are gone.
func (b *Bindings) Load(text []byte) error {
	if !bytes.HasSuffix(text, []byte(bindingsEnd)) {
		return errors.New("it has been cut off")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line[0] == '#' {
			continue
		}
		var id, token Subject
		first, second, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !id.parse(first) || !token.parse(second) {
			return fmt.Errorf("line %d: must have two hashes of 64 hexadecimal digits", n)
		}
		if _, ok := b.token[id]; !ok {
			b.set(id, token)
		}
	}
	b.dirty = false
	return nil
}

// parse sets s to the hash in text.
func (s *Subject) parse(text string) bool {
	if len(text) != hex.EncodedLen(len(s)) {
		return false
	}
	_, err := hex.Decode(s[:], []byte(text))
	return err == nil
}
