package push

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A wake makes a second attempt in two cases: with a new access token if FCM refuses the
// old one, and after a pause if FCM is unavailable or was not reached. It never makes a
// third attempt, nor a second one if FCM asks for a longer pause or a quota is exceeded:
// few wakes may be in flight, and a binary that still needs its phone asks again.
const (
	pause    = 2 * time.Second
	maxPause = 5 * time.Second
)

// maxAnswer is the greatest number of bytes that is read of an answer of FCM.
const maxAnswer = 64 << 10

// fcm sends messages through FCM's HTTP v1 interface, with one account.
type fcm struct {
	credentials *Credentials
	url         string
	client      *http.Client
	tokens      *tokens
}

// newClient returns the client for requests to FCM and to token endpoints. If transport
// is nil, the client has a transport of its own.
func newClient(transport http.RoundTripper) *http.Client {
	if transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = maxInFlight
		t.MaxResponseHeaderBytes = 64 << 10
		transport = t
	}
	return &http.Client{
		Transport: transport,
		// A redirect can send a token to any server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func newFCM(c *Credentials, endpoint string, client *http.Client) *fcm {
	return &fcm{
		credentials: c,
		url:         cmp.Or(endpoint, DefaultEndpoint) + "/v1/projects/" + url.PathEscape(c.project) + "/messages:send",
		client:      client,
		tokens:      newTokens(c.account, client),
	}
}

// request is the message. It has no content, and no notification, which Android shows
// without the app.
type request struct {
	Message message `json:"message"`
}

type message struct {
	Token   string            `json:"token"`
	Data    map[string]string `json:"data"`
	Android android           `json:"android"`
}

type android struct {
	Priority string `json:"priority"`
}

func newRequest(token string) request {
	return request{message{
		Token:   token,
		Data:    map[string]string{"type": "push_wake"},
		Android: android{Priority: "HIGH"},
	}}
}

// deliver sends one message and returns its id.
func (f *fcm) deliver(ctx context.Context, token string) (id string, fail *failure) {
	body, err := json.Marshal(newRequest(token))
	if err != nil {
		return "", &failure{invalid, "the message cannot be encoded", never} // texts can always be encoded
	}
	if id, fail = f.attempt(ctx, body); fail == nil || !sleep(ctx, fail.again) {
		return id, fail
	}
	return f.attempt(ctx, body)
}

// sleep waits for d. It returns false immediately if d is longer than maxPause or than the
// rest of ctx, and later if ctx ends meanwhile.
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

func (f *fcm) attempt(ctx context.Context, body []byte) (id string, fail *failure) {
	const what = "FCM"
	access, fail := f.tokens.get(ctx)
	if fail != nil {
		return "", fail
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url, bytes.NewReader(body))
	if err != nil {
		return "", &failure{unexpected, "FCM's address is not one", never} // the endpoint was validated at the start
	}
	req.Header.Set("Authorization", "Bearer "+access)
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	resp, err := f.client.Do(req)
	if err != nil {
		return "", noAnswer(ctx, what, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil && ctx.Err() != nil {
		return "", ended(ctx, what) // otherwise the part that was read is used
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

// messageID returns the ID in an answer of success, {"name":"projects/…/messages/ID"}.
func messageID(answer []byte) (string, *failure) {
	var said struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(answer, &said); err != nil || said.Name == "" {
		return "", &failure{unexpected, "FCM answers 200 without the message's name: is something in between?", never}
	}
	return said.Name[strings.LastIndexByte(said.Name, '/')+1:], nil
}

// fcmCodes are the error codes that may appear in a log.
var fcmCodes = []string{
	"INVALID_ARGUMENT", "UNREGISTERED", "SENDER_ID_MISMATCH", "QUOTA_EXCEEDED", "UNAVAILABLE", "INTERNAL", "THIRD_PARTY_AUTH_ERROR",
	"UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION",
}

// errorCode returns FCM's own code in an answer, or else the general one, or "" if the
// answer has neither.
func errorCode(answer []byte) string {
	var said struct {
		Error struct {
			Status  string `json:"status"`
			Details []struct {
				ErrorCode string `json:"errorCode"`
			} `json:"details"`
		} `json:"error"`
	}
	_ = json.Unmarshal(answer, &said) // answer may not be JSON
	code := said.Error.Status
	for _, d := range said.Error.Details {
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
		return &failure{mismatch, text + ": the token is one of another Firebase project", never}
	case status == http.StatusUnauthorized:
		return &failure{auth, text + ": is the service account still good?", 0}
	case status == http.StatusForbidden:
		return &failure{auth, text + ": may the service account send, and is the interface enabled for the project?", never}
	case status == http.StatusTooManyRequests:
		return &failure{quota, text, never}
	case status == http.StatusBadRequest:
		return &failure{invalid, text, never}
	case status >= 500:
		return &failure{unavailable, text, pauseFor(retryAfter)}
	}
	return &failure{unexpected, text, never}
}

// pauseFor returns the pause that FCM asks for in seconds, or the default. HTTP also allows
// a date, which FCM does not use.
func pauseFor(retryAfter string) time.Duration {
	if s, err := strconv.ParseUint(retryAfter, 10, 31); err == nil {
		return max(time.Duration(s)*time.Second, pause)
	}
	return pause
}

// noAnswer returns the failure for a request without an answer. Its text has only known
// causes, because other error texts may contain an address with a password.
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

// ended returns the failure of a wake that has exceeded its time or was cancelled.
func ended(ctx context.Context, what string) *failure {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &failure{timeout, what + " did not answer in " + wakeTime.String(), never}
	}
	return &failure{cancelled, "the relay has ended before " + what + " answered", never}
}
