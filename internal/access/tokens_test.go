package access

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// fataler is a test, of the testing package or of rapid.
type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// tokens parses a file with a line for each token, in the form NAME OPTIONS. The token is
// the name with "-secret".
func tokens(t fataler, lines ...string) *Book {
	t.Helper()
	text := "# tokens\n"
	for _, l := range lines {
		name, rest, _ := strings.Cut(l, " ")
		text += fmt.Sprintf("token:%s name=%s %s\n", SubjectOf(name+"-secret"), name, rest)
	}
	b, err := ParseBook([]byte(text), Tokens)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// with is a claim of id with the token of a name.
func with(id wire.ServerID, name string) relay.AccessQuestion {
	q := relay.AccessQuestion{Server: id}
	if name != "" {
		q.Token = name + "-secret"
	}
	return q
}

// claim is the claim of q by a binary that gets its slot. It returns the status of a
// refusal before the upgrade, or 0.
func claim(t fataler, p *Policy, q relay.AccessQuestion) int {
	t.Helper()
	no := status(t, p, q)
	if no == 0 && !p.Claimed(q.Server, grantOf(strings.TrimSuffix(q.Token, "-secret"))) {
		t.Fatalf("%s may be claimed, and then not", q.Server)
	}
	return no
}

// grantOf returns the grant of a claim with the token of a name.
func grantOf(name string) string {
	s := SubjectOf(name + "-secret")
	return string(s[:])
}

func TestAServerIDStaysBoundToItsFirstToken(t *testing.T) {
	p := NewTokens(relay.Runtime{})
	p.Use(tokens(t, "anna phones=3", "bob", "old expires=2000-01-01"))
	for _, tt := range []struct {
		id    wire.ServerID
		token string
		want  int
	}{
		{"s1", "", 401},
		{"s1", "eve", 401},
		{"s1", "old", 401},
		{"s1", "anna", 0},
		{"s1", "anna", 0},
		{"s1", "bob", 403},
		{"s2", "bob", 0},
		{"s2", "anna", 403},
	} {
		if got := claim(t, p, with(tt.id, tt.token)); got != tt.want {
			t.Errorf("%s with the token of %q: %d; want %d", tt.id, tt.token, got, tt.want)
		}
	}
	if terms, _ := p.Ask(with("s1", "anna")); terms.MaxPhones != 3 {
		t.Errorf("terms %+v; want 3 phones", terms)
	}
	if got := status(t, p, relay.AccessQuestion{Server: "s1", Phone: true}); got != 0 {
		t.Errorf("a phone: %d; want 0", got)
	}
	if !p.Allowed("s1", grantOf("anna")) || p.Allowed("s1", grantOf("bob")) || !p.Allowed("s3", grantOf("bob")) || p.Allowed("s3", grantOf("eve")) {
		t.Error("want s1 allowed with the token that has claimed it, and s3 with every token of the book")
	}
	p.Use(tokens(t, "bob", "old expires=2000-01-01")) // anna's is revoked
	if p.Allowed("s1", grantOf("anna")) || !p.Allowed("s2", grantOf("bob")) {
		t.Error("want s2 allowed with the token of bob, and s1 not with that of anna")
	}
	if got := claim(t, p, with("s1", "anna")); got != 401 {
		t.Errorf("with a revoked token: %d; want 401", got)
	}
	if got := claim(t, p, with("s1", "bob")); got != 0 {
		t.Errorf("after the token was revoked another may claim: %d; want 0", got)
	}
	if p.Allowed("s1", grantOf("anna")) {
		t.Error("a connection with the revoked token is allowed, because another token has the server-id")
	}
}

// A claim that the relay refuses later binds nothing.
func TestOnlyABinaryThatGetsItsSlotBindsItsServerID(t *testing.T) {
	p := NewTokens(relay.Runtime{})
	p.Use(tokens(t, "anna", "bob", "carl"))
	for _, name := range []string{"anna", "bob"} {
		if got := status(t, p, with("s1", name)); got != 0 {
			t.Fatalf("with the token of %s: %d; want 0", name, got)
		}
	}
	if p.Bindings().Changes() != nil {
		t.Error("a question has bound the server-id")
	}
	if !p.Claimed("s1", grantOf("bob")) || p.Claimed("s1", grantOf("anna")) {
		t.Error("want s1 bound to the token that got the slot first, and refused to the other one")
	}
	p.Use(tokens(t, "anna", "bob"))
	if p.Claimed("s2", grantOf("carl")) || p.Claimed("s2", "") {
		t.Error("a token that was revoked between the question and the slot has bound a server-id")
	}
	if got := claim(t, p, with("s2", "anna")); got != 0 {
		t.Errorf("with the token of anna: %d; want 0", got)
	}
}

func TestAnExpiredTokenKeepsItsServerIDs(t *testing.T) {
	p := NewTokens(relay.Runtime{})
	p.Use(tokens(t, "anna", "bob"))
	if got := claim(t, p, with("s1", "anna")); got != 0 {
		t.Fatal(got)
	}
	p.Use(tokens(t, "anna expires=2000-01-01", "bob"))
	if got := claim(t, p, with("s1", "bob")); got != 403 || p.Allowed("s1", grantOf("anna")) {
		t.Errorf("%d, allowed %t; want 403", got, p.Allowed("s1", grantOf("anna")))
	}
	p.Use(tokens(t, "anna expires="+FormatTime(time.Now().Add(time.Hour)), "bob"))
	if !p.Allowed("s1", grantOf("anna")) {
		t.Error("a token that is extended has lost its server-id")
	}
}

func TestATokenClaimsAsManyServerIDsAsItMay(t *testing.T) {
	p := NewTokens(relay.Runtime{})
	p.Use(tokens(t, "anna ids=2", "bob"))
	for name, most := range map[string]int{"anna": 2, "bob": DefaultMaxIDs} {
		for i := range most + 2 {
			want := 0
			if i >= most {
				want = 403
			}
			if got := claim(t, p, with(wire.ServerID(fmt.Sprint(name, i)), name)); got != want {
				t.Errorf("%s, server-id %d: %d; want %d", name, i, got, want)
			}
		}
	}
}

func TestTheRateOfATokenCountsItsPhones(t *testing.T) {
	p := NewTokens(relay.Runtime{})
	p.Use(tokens(t, "anna rate=2"))
	phone := relay.AccessQuestion{Server: "s1", Phone: true}
	if got := [...]int{claim(t, p, with("s1", "anna")), status(t, p, phone), status(t, p, phone)}; got != [...]int{0, 0, 429} {
		t.Errorf("got %v; want 0, 0, 429", got)
	}
}

func TestBindingsSurviveARestart(t *testing.T) {
	p := NewTokens(relay.Runtime{})
	book := tokens(t, "anna", "bob", "gone")
	p.Use(book)
	for id, name := range map[wire.ServerID]string{"s1": "anna", "s2": "bob", "s3": "gone"} {
		if got := claim(t, p, with(id, name)); got != 0 {
			t.Fatal(got)
		}
	}
	text := p.Bindings().Changes()
	if p.Bindings().Changes() != nil {
		t.Error("there are changes again")
	}
	for _, secret := range []string{"s1", "s2", "secret"} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("the file has %q", secret)
		}
	}
	next := NewTokens(relay.Runtime{})
	if err := next.Bindings().Load(text); err != nil {
		t.Fatal(err)
	}
	next.Use(tokens(t, "anna", "bob"))
	for id, want := range map[wire.ServerID]int{"s1": 403, "s2": 0, "s3": 0} {
		if got := claim(t, next, with(id, "bob")); got != want {
			t.Errorf("%s with the token of bob: %d; want %d", id, got, want)
		}
	}
	for _, bad := range []string{"", "x\n", strings.TrimSuffix(string(text), bindingsEnd), "ab cd\n" + bindingsEnd} {
		if err := newBindings(relay.Runtime{}.WithDefaults().NewLock("")).Load([]byte(bad)); err == nil {
			t.Errorf("%q was loaded", bad)
		}
	}
}

// Whatever happens, a server-id has one token, which is in the book at the time.
func TestBindingsProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := NewTokens(relay.Runtime{})
		names := []string{"a", "b", "c"}
		model := make(map[string]string) // name by server-id
		var book map[string]bool
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if book == nil || rapid.IntRange(0, 4).Draw(t, "what") == 0 {
				book = make(map[string]bool)
				var lines []string
				for _, n := range names {
					if rapid.Bool().Draw(t, "has "+n) {
						book[n] = true
						lines = append(lines, n+" ids=2")
					}
				}
				p.Use(tokens(t, lines...))
				for id, n := range model {
					if !book[n] {
						delete(model, id)
					}
				}
				continue
			}
			id, n := rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "id"), rapid.SampledFrom(names).Draw(t, "name")
			held := 0
			for _, of := range model {
				if of == n {
					held++
				}
			}
			want := 0
			switch of, bound := model[id]; {
			case !book[n]:
				want = 401
			case bound && of != n, !bound && held >= 2:
				want = 403
			default:
				model[id] = n
			}
			if got := claim(t, p, with(wire.ServerID(id), n)); got != want {
				t.Fatalf("%s with the token of %s: %d; want %d (bound: %v)", id, n, got, want, model)
			}
			for _, n := range names {
				of, bound := model[id]
				if got := p.Allowed(wire.ServerID(id), grantOf(n)); bound && got != (of == n) || got && !book[n] {
					t.Fatalf("%s allowed with the token of %s: %t (bound: %v)", id, n, got, model)
				}
			}
		}
	})
}
