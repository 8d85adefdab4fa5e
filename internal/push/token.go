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

// tokenPause is the time for which a failed request for an access token counts for all
// wakes, so that 32 wakes do not send 32 requests to a server that has just failed.
const tokenPause = time.Second

// tokens has the access token of the service account. It requests a new token shortly
// before the old one expires.
type tokens struct {
	account jwt.Config
	client  *http.Client

	// turn is the lock of the fields below. It has one value while a wake holds it.
	// Unlike a mutex, it can be waited for together with a context.
	turn   chan struct{}
	token  *oauth2.Token
	failed *failure  // the last failure
	until  time.Time // failed counts for all wakes until then
}

func newTokens(account jwt.Config, client *http.Client) *tokens {
	return &tokens{account: account, client: client, turn: make(chan struct{}, 1)}
}

// get returns an access token. If another wake is requesting one, get waits for it. It
// returns a failure when ctx ends.
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

// reject deletes the token access, which FCM has refused.
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

// within adds ctx to every request of a client, because package jwt makes requests without
// a context. It also keeps the error of the last request, because jwt keeps only its text.
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

// fetch requests a token from the token endpoint.
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
	return nil, &failure{unexpected, what + " answered without a token", never}
}

// oauthErrors are the error codes that may appear in a log (RFC 6749, 5.2).
var oauthErrors = []string{
	"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
	"access_denied", "disabled_client", "org_internal", "admin_policy_enforced",
}

// refusedToken returns the failure for a token endpoint's answer with another status than 200.
func refusedToken(status int, body []byte) *failure {
	var refusal struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(body, &refusal) // body may not be JSON
	text := fmt.Sprintf("the token endpoint answers %d", status)
	if slices.Contains(oauthErrors, refusal.Error) {
		text += " " + refusal.Error
	}
	switch {
	case status == http.StatusBadRequest || status == http.StatusUnauthorized || status == http.StatusForbidden:
		return &failure{auth, text + ": check that the key of the service account is still valid and that the clock of this machine is right", never}
	case status == http.StatusTooManyRequests || status >= 500:
		return &failure{unavailable, text, pause}
	}
	return &failure{unexpected, text, never}
}
