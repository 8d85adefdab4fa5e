package push

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// A wake makes a second attempt in two cases: with a new access token if FCM refuses the
// old one, and after a pause if FCM is unavailable or unreachable. It makes no second
// attempt if FCM asks for a pause above maxPause or if a quota is exceeded, and it never
// makes a third one. The number of wakes in flight is small, and a binary that still
// needs its phone sends another wake.
const (
	pause    = 2 * time.Second
	maxPause = 5 * time.Second
)

// maxAnswer limits the bytes that are read of an answer of FCM.
const maxAnswer = 64 << 10

// fcm sends messages through FCM's HTTP v1 API with one account.
type fcm struct {
	credentials *Credentials
	url         string
	client      *http.Client
	tokens      *tokens
}

// newClient returns the client for requests to FCM and to token endpoints. A nil transport
// means a new one.
func newClient(transport http.RoundTripper) *http.Client {
	if transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = maxInFlight
		t.MaxResponseHeaderBytes = 64 << 10
		transport = t
	}
	return &http.Client{
		Transport: transport,
		// The client follows no redirect, which could send a token to another server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func newFCM(c *Credentials, endpoint string, client *http.Client) *fcm {
	return &fcm{
		credentials: c,
		url:         endpoint + "/v1/projects/" + url.PathEscape(c.project) + "/messages:send",
		client:      client,
		tokens:      newTokens(c.account, client),
	}
}

// request is the JSON of a message. The message has no content. It has no notification
// either, because Android would show one without starting the app.
type request struct {
	Message struct {
		Token   string            `json:"token"`
		Data    map[string]string `json:"data"`
		Android struct {
			Priority string `json:"priority"`
		} `json:"android"`
	} `json:"message"`
}

// deliver sends one message to the device with the given token, in at most two attempts.
// It returns the id of the message.
func (f *fcm) deliver(ctx context.Context, token string) (id string, fail *failure) {
	var r request
	r.Message.Token = token
	r.Message.Data = map[string]string{"type": "push_wake"}
	r.Message.Android.Priority = "HIGH"
	body, err := json.Marshal(r)
	if err != nil {
		return "", &failure{invalid, "the message cannot be encoded", never} // not possible: r has only strings
	}
	if id, fail = f.attempt(ctx, body); fail == nil || !sleep(ctx, fail.again) {
		return id, fail
	}
	return f.attempt(ctx, body)
}

// sleep waits for d and returns true. It returns false without waiting if d is longer than
// maxPause or than the time left in ctx, and also if ctx ends while it waits.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); d > maxPause || ok && time.Until(deadline) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// attempt sends body once.
func (f *fcm) attempt(ctx context.Context, body []byte) (id string, fail *failure) {
	const what = "FCM"
	access, fail := f.tokens.get(ctx)
	if fail != nil {
		return "", fail
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url, bytes.NewReader(body))
	if err != nil {
		return "", &failure{unexpected, "the URL of FCM is invalid", never} // not possible: the endpoint was validated at the start
	}
	req.Header.Set("Authorization", "Bearer "+access)
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	resp, err := f.client.Do(req)
	if err != nil {
		return "", noAnswer(ctx, what, err)
	}
	defer resp.Body.Close()
	// If reading fails for another reason than ctx, the part that was read is used.
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil && ctx.Err() != nil {
		return "", ended(ctx, what)
	}
	if resp.StatusCode == http.StatusOK {
		return messageID(answer)
	}
	fail = refused(resp.StatusCode, resp.Header.Get("Retry-After"), answer)
	if resp.StatusCode == http.StatusUnauthorized {
		f.tokens.reject(ctx, access)
	}
	return "", fail
}

// messageID returns the ID in a successful answer, {"name":"projects/…/messages/ID"}.
func messageID(answer []byte) (string, *failure) {
	var success struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(answer, &success); err != nil || success.Name == "" {
		return "", &failure{unexpected, "FCM answers 200 without the message's name: check for a proxy in between", never}
	}
	return path.Base(success.Name), nil
}

// fcmCodes are the error codes that may appear in a log.
var fcmCodes = []string{
	"INVALID_ARGUMENT", "UNREGISTERED", "SENDER_ID_MISMATCH", "QUOTA_EXCEEDED", "UNAVAILABLE", "INTERNAL", "THIRD_PARTY_AUTH_ERROR",
	"UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION",
}

// errorCode returns the error code in an answer: FCM's own code if the answer has one,
// otherwise the general code of Google's APIs. It returns "" for an unknown code.
func errorCode(answer []byte) string {
	var refusal struct {
		Error struct {
			Status  string `json:"status"`
			Details []struct {
				ErrorCode string `json:"errorCode"`
			} `json:"details"`
		} `json:"error"`
	}
	_ = json.Unmarshal(answer, &refusal) // answer may not be JSON
	code := refusal.Error.Status
	for _, d := range refusal.Error.Details {
		if d.ErrorCode != "" {
			code = d.ErrorCode
		}
	}
	if !slices.Contains(fcmCodes, code) {
		return ""
	}
	return code
}

// refused returns the failure for an answer with another status than 200.
func refused(status int, retryAfter string, answer []byte) *failure {
	code := errorCode(answer)
	text := fmt.Sprintf("FCM answers %d", status)
	if code != "" {
		text += " " + code
	}
	switch {
	case code == "UNREGISTERED":
		return &failure{unregistered, text + ": the app is no longer on the device", never}
	case code == "SENDER_ID_MISMATCH":
		return &failure{mismatch, text + ": the token belongs to another Firebase project", never}
	case status == http.StatusUnauthorized:
		return &failure{auth, text + ": check that the service account still exists and is enabled", 0}
	case status == http.StatusForbidden:
		return &failure{auth, text + ": check that the service account may send messages and that the project has the Firebase Cloud Messaging API enabled", never}
	case status == http.StatusTooManyRequests:
		return &failure{quota, text, never}
	case status == http.StatusBadRequest:
		return &failure{invalid, text, never}
	case status >= 500:
		return &failure{unavailable, text, pauseFor(retryAfter)}
	}
	return &failure{unexpected, text, never}
}

// pauseFor returns the pause that a Retry-After header in seconds asks for, and at least
// the default. HTTP also allows a date there, which FCM does not use.
func pauseFor(retryAfter string) time.Duration {
	if s, err := strconv.ParseUint(retryAfter, 10, 31); err == nil {
		return max(time.Duration(s)*time.Second, pause)
	}
	return pause
}

// noAnswer returns the failure for a request to what that got no answer. Its text names
// known causes only, because the text of err may contain an address with a password.
func noAnswer(ctx context.Context, what string, err error) *failure {
	if ctx.Err() != nil {
		return ended(ctx, what)
	}
	why := "connection failed"
	errno, isErrno := errors.AsType[syscall.Errno](err)
	_, isDNS := errors.AsType[*net.DNSError](err)
	_, isTLS := errors.AsType[*tls.CertificateVerificationError](err)
	e, isNet := errors.AsType[net.Error](err)
	switch {
	case isErrno:
		why = errno.Error()
	case isDNS:
		why = "its name cannot be resolved"
	case isTLS:
		why = "its certificate is not trusted"
	case isNet && e.Timeout():
		why = "it does not answer in time"
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		why = "it closed the connection"
	}
	return &failure{unreachable, what + " cannot be reached: " + why, pause}
}

// ended returns the failure of a wake that waited for what until its time was over or the
// relay ended.
func ended(ctx context.Context, what string) *failure {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &failure{timeout, what + " did not answer within " + wakeTime.String(), never}
	}
	return &failure{cancelled, "the relay ended before " + what + " answered", never}
}
