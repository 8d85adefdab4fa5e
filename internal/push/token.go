package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"
)

// tokenPause is how long a failure to get an access token is returned to other wakes, so
// that 32 wakes do not send 32 requests to a server that has just failed.
const tokenPause = time.Second

// tokens has the access token of the service account, and requests a new one shortly
// before the old one expires.
type tokens struct {
	account jwt.Config
	client  *http.Client

	turn   chan struct{} // a lock for the fields below; it has one value while a wake holds it
	token  *oauth2.Token
	failed *failure
	until  time.Time // failed stands until then
}

func newTokens(account jwt.Config, client *http.Client) *tokens {
	return &tokens{account: account, client: client, turn: make(chan struct{}, 1)}
}

// get returns an access token. It returns when ctx ends, also while another wake requests
// the token.
func (t *tokens) get(ctx context.Context) (string, *failure) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return "", ended(ctx, "the token endpoint")
	}
	if t.token.Valid() {
		return t.token.AccessToken, nil
	}
	if t.failed != nil && time.Now().Before(t.until) {
		return "", t.failed
	}
	token, fail := t.fetch(ctx)
	t.token, t.failed, t.until = token, fail, time.Now().Add(tokenPause)
	if fail != nil {
		return "", fail
	}
	return token.AccessToken, nil
}

// reject forgets the token access, which FCM has refused.
func (t *tokens) reject(ctx context.Context, access string) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return
	}
	if t.token != nil && t.token.AccessToken == access {
		t.token = nil
	}
}

// within adds ctx to every request of a client, because package jwt makes requests
// without a context. It also keeps the error of the last request, of which jwt keeps only
// the text.
type within struct {
	ctx  context.Context
	next http.RoundTripper
	err  error
}

func (w *within) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.next.RoundTrip(r.WithContext(w.ctx))
	w.err = err
	return resp, err
}

// fetch requests a token.
func (t *tokens) fetch(ctx context.Context) (*oauth2.Token, *failure) {
	const what = "the token endpoint"
	w := &within{ctx: ctx, next: t.client.Transport}
	client := &http.Client{Transport: w, CheckRedirect: t.client.CheckRedirect}
	token, err := t.account.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, client)).Token()
	answer, answered := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case err == nil && token.AccessToken != "":
		return token, nil
	case answered:
		return nil, refusedToken(answer.Response.StatusCode, answer.Body)
	case w.err != nil:
		return nil, noAnswer(ctx, what, w.err)
	case ctx.Err() != nil:
		return nil, ended(ctx, what)
	}
	return nil, &failure{unexpected, what + " gave an answer without a token", never}
}

// oauthErrors are the error codes that may appear in a log (RFC 6749, 5.2).
var oauthErrors = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
	"access_denied", "disabled_client", "org_internal", "admin_policy_enforced",
}

func refusedToken(status int, body []byte) *failure {
	var said struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(body, &said) // body may not be JSON
	text := fmt.Sprintf("the token endpoint answers %d", status)
	if slices.Contains(oauthErrors, said.Error) {
		text += " " + said.Error
	}
	switch {
	case status == http.StatusBadRequest || status == http.StatusUnauthorized || status == http.StatusForbidden:
		return &failure{auth, text + ": is the service account's key still good, and this machine's clock right?", never}
	case status == http.StatusTooManyRequests || status >= 500:
		return &failure{unavailable, text, pause}
	}
	return &failure{unexpected, text, never}
}
