package push

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

const gone = `{"error":{"code":404,"message":"CANARY Requested entity was not found.","status":"NOT_FOUND","details":[` +
	`{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"UNREGISTERED"}]}}`

func fcmError(status, code string) string {
	return fmt.Sprintf(`{"error":{"code":1,"message":"CANARY","status":%q,"details":[{"@type":"x"},{"errorCode":%q}]}}`, status, code)
}

// dialing returns an error of a dial. No log may contain its text.
func dialing(err error) error { return &net.OpError{Op: "dial CANARY", Err: err} }

func TestEachAnswerIsAnOutcomeAndOneLogLine(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tokens  []answer
		fcm     []answer
		outcome outcome
		err     string        // in the log
		took    time.Duration // 0: no second attempt
		asked   int           // requests to FCM
	}{
		{"sent", nil, nil, sent, "", 0, 1},
		{"a message id that breaks lines", nil, []answer{says(200, `{"name":"m\n\u001b"}`)}, sent, "", 0, 1},

		{"unregistered", nil, []answer{says(404, gone)}, unregistered, "FCM answers 404 UNREGISTERED: the app is no longer on the device", 0, 1},
		{"no such project", nil, []answer{says(404, fcmError("NOT_FOUND", ""))}, unexpected, "FCM answers 404 NOT_FOUND", 0, 1},
		{"not a token", nil, []answer{says(400, fcmError("INVALID_ARGUMENT", "INVALID_ARGUMENT"))}, invalid, "FCM answers 400 INVALID_ARGUMENT", 0, 1},
		{"another project's token", nil, []answer{says(403, fcmError("PERMISSION_DENIED", "SENDER_ID_MISMATCH"))}, mismatch,
			"FCM answers 403 SENDER_ID_MISMATCH: the token belongs to another Firebase project", 0, 1},
		{"may not send", nil, []answer{says(403, fcmError("PERMISSION_DENIED", ""))}, auth,
			"FCM answers 403 PERMISSION_DENIED: check that the service account may send messages and that the project has the Firebase Cloud Messaging API enabled", 0, 1},
		{"quota", nil, []answer{says(429, fcmError("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), "Retry-After", "1")}, quota, "FCM answers 429 QUOTA_EXCEEDED", 0, 1},
		{"an error that is no JSON", nil, []answer{says(400, "<html>CANARY")}, invalid, "FCM answers 400", 0, 1},
		{"an error that is another JSON", nil, []answer{says(400, `{"error":"CANARY"}`)}, invalid, "FCM answers 400", 0, 1},
		{"an unknown code", nil, []answer{says(418, fcmError("CANARY", "CANARY"))}, unexpected, "FCM answers 418", 0, 1},
		{"a redirect", nil, []answer{says(307, "", "Location", "https://elsewhere.test/")}, unexpected, "FCM answers 307", 0, 1},
		{"success without JSON", nil, []answer{says(200, "<html>CANARY")}, unexpected, "FCM answers 200 without the message's name: check for a proxy in between", 0, 1},
		{"success without a name", nil, []answer{says(200, "{}")}, unexpected, "FCM answers 200 without the message's name: check for a proxy in between", 0, 1},
		{"success that has no end", nil, []answer{says(200, `{"name":"`+strings.Repeat("x", maxAnswer))}, unexpected,
			"FCM answers 200 without the message's name: check for a proxy in between", 0, 1},

		{"unavailable", nil, []answer{says(503, fcmError("UNAVAILABLE", "UNAVAILABLE"))}, unavailable, "FCM answers 503 UNAVAILABLE", pause, 2},
		{"unavailable for a moment", nil, []answer{says(503, ""), sentAs("m")}, sent, "", pause, 2},
		{"broken for a moment", nil, []answer{says(500, fcmError("INTERNAL", "INTERNAL"), "Retry-After", "4"), sentAs("m")}, sent, "", 4 * time.Second, 2},
		{"unavailable for longer", nil, []answer{says(503, "", "Retry-After", "60")}, unavailable, "FCM answers 503", 0, 1},
		{"unavailable until a date", nil, []answer{says(503, "", "Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT"), sentAs("m")}, sent, "", pause, 2},
		{"not there", nil, []answer{breaks(dialing(syscall.ECONNREFUSED))}, unreachable, "FCM cannot be reached: connection refused", pause, 2},
		{"cut, then not", nil, []answer{breaks(dialing(syscall.ECONNRESET)), sentAs("m")}, sent, "", pause, 2},
		{"no name server", nil, []answer{breaks(&net.DNSError{Err: "CANARY", Name: "CANARY"})}, unreachable, "FCM cannot be reached: its name cannot be resolved", pause, 2},
		{"broken in a way of its own", nil, []answer{breaks(errors.New("CANARY"))}, unreachable, "FCM cannot be reached: connection failed", pause, 2},
		{"never answers", nil, []answer{hang}, timeout, "FCM did not answer within 15s", wakeTime, 1},
		{"unavailable, then never answers", nil, []answer{says(503, ""), hang}, timeout, "FCM did not answer within 15s", wakeTime, 2},

		{"a token that was revoked", nil, []answer{says(401, fcmError("UNAUTHENTICATED", "")), sentAs("m")}, sent, "", 0, 2},
		{"no token is good", nil, []answer{says(401, fcmError("UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"))}, auth,
			"FCM answers 401 THIRD_PARTY_AUTH_ERROR: check that the service account still exists and is enabled", 0, 2},

		{"the key is gone", []answer{says(400, `{"error":"invalid_grant","error_description":"CANARY"}`)}, nil, auth,
			"the token endpoint answers 400 invalid_grant: check that the key of the service account is still valid and that the clock of this machine is right", 0, 0},
		{"an unknown error of OAuth", []answer{says(401, `{"error":"CANARY"}`)}, nil, auth,
			"the token endpoint answers 401: check that the key of the service account is still valid and that the clock of this machine is right", 0, 0},
		{"the token endpoint fails for a moment", []answer{says(500, "CANARY"), token(3600)}, nil, sent, "", pause, 1},
		{"the token endpoint fails", []answer{says(503, "CANARY")}, nil, unavailable, "the token endpoint answers 503", pause, 0},
		{"the token endpoint is not there", []answer{breaks(dialing(syscall.EHOSTUNREACH))}, nil, unreachable, "the token endpoint cannot be reached: no route to host", pause, 0},
		{"the token endpoint redirects", []answer{says(302, "", "Location", "https://elsewhere.test/")}, nil, unexpected, "the token endpoint answers 302", 0, 0},
		{"the token endpoint is something else", []answer{says(200, "<html>CANARY")}, nil, unexpected, "the token endpoint answered without a token", 0, 0},
		{"the token endpoint gives nothing", []answer{says(200, "{}")}, nil, unexpected, "the token endpoint answered without a token", 0, 0},
		{"the token endpoint has no end", []answer{says(200, `{"access_token":"`+strings.Repeat("x", 2<<20))}, nil, unexpected, "the token endpoint answered without a token", 0, 0},
		{"the token endpoint never answers", []answer{hang}, nil, timeout, "the token endpoint did not answer within 15s", wakeTime, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startGoogle(t, tt.tokens, tt.fcm)
				began := time.Now()
				if err := g.wake("s\n1"); err != nil {
					t.Fatal(err)
				}
				log := g.finish()
				g.counted(map[outcome]int{tt.outcome: 1})
				if took := time.Since(began); took != tt.took {
					t.Errorf("took %v; want %v", took, tt.took)
				}
				if _, asked := g.total(); asked != tt.asked {
					t.Errorf("FCM was asked %d times; want %d", asked, tt.asked)
				}
				want := []string{`server_id=s\n1 token_fp=5747d2b2 duration=` + tt.took.String() + " "}
				if tt.outcome == sent {
					want = append(want, "level=INFO msg=push_wake_sent ", "fcm_message_id=")
				} else {
					want = append(want, "level=WARN msg=push_wake_send_failed ")
					if !strings.Contains(log, fmt.Sprintf("err=%q\n", tt.err)) {
						t.Errorf("no err=%q", tt.err)
					}
				}
				for _, w := range want {
					if !strings.Contains(log, w) {
						t.Errorf("no %s", w)
					}
				}
				if strings.Count(log, "\n") != 1 || t.Failed() {
					t.Errorf("want one line of log; it is\n%s", log)
				}
			})
		})
	}
}

func TestATokenIsRequestedOnceAndAgainBeforeItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return token(3600)(r)
		}
		g := startGoogle(t, []answer{slow}, nil)
		for n, wait := range []time.Duration{time.Minute, 3580 * time.Second, 0} {
			for i := range maxInFlight {
				if err := g.wake(wire.ServerID(fmt.Sprint(n, i))); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(wait)
		}
		g.finish()
		if bought, asked := g.total(); bought != 2 || asked != 3*maxInFlight {
			t.Errorf("%d wakes with %d tokens; want %d with 2", asked, bought, 3*maxInFlight)
		}
	})
}

func TestAFailedTokenRequestCountsForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGoogle(t, []answer{says(400, "{}"), token(3600)}, nil)
		for i := range maxInFlight {
			_ = g.wake(wire.ServerID(fmt.Sprint(i)))
		}
		synctest.Wait()
		if bought, _ := g.total(); bought != 1 {
			t.Errorf("%d attempts to buy a token; want 1", bought)
		}
		time.Sleep(tokenPause)
		_ = g.wake("s")
		g.finish()
		g.counted(map[outcome]int{auth: maxInFlight, sent: 1})
	})
}

func TestAWakeIsAdmittedAtOnceOrNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGoogle(t, nil, nil)
		refusals := 0
		for _, step := range []struct {
			wait time.Duration
			id   wire.ServerID
			want []error
		}{
			{0, "a", []error{nil, nil, nil, nil, nil, nil, ErrRate, ErrRate}},
			{0, "b", []error{nil}},
			{9 * time.Second, "a", []error{ErrRate}},
			{time.Second, "a", []error{nil, ErrRate}},
			{25 * time.Second, "a", []error{nil, nil, ErrRate}},
			{59 * time.Second, "a", []error{nil, nil, nil, nil, nil, nil, ErrRate}}, // a generation later
			{time.Hour, "a", []error{nil, nil, nil, nil, nil, nil, ErrRate}},
		} {
			time.Sleep(step.wait)
			for i, want := range step.want {
				if got := g.wake(step.id); got != want {
					t.Errorf("after %v, wake %d of %s: %v; want %v", step.wait, i+1, step.id, got, want)
				}
				if want != nil {
					refusals++
				}
				synctest.Wait()
			}
		}
		g.finish()
		g.counted(map[outcome]int{sent: 22, limited: refusals})
	})
}

func TestSoManyAreInFlightAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGoogle(t, nil, []answer{hang})
		for i := range maxInFlight {
			if err := g.wakeFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), wire.ServerID(fmt.Sprint(i))); err != nil {
				t.Fatalf("wake %d: %v", i, err)
			}
		}
		if got := value(g.metrics.inFlight); got != maxInFlight {
			t.Errorf("in flight: %v; want %d", got, maxInFlight)
		}
		for range 2 * wakeBurst { // does not count against the rate of s
			if err := g.wake("s"); err != ErrInFlight {
				t.Fatalf("wake: %v; want %v", err, ErrInFlight)
			}
		}
		time.Sleep(wakeTime)
		synctest.Wait()
		for range wakeBurst {
			if err := g.wake("s"); err != nil {
				t.Errorf("when there is room again: %v", err)
			}
		}
		g.finish()
		if got := value(g.metrics.inFlight); got != 0 {
			t.Errorf("in flight at the end: %v; want 0", got)
		}
		// pyrycode_relay_push_wakes_in_flight and pyrycode_relay_push_wake_duration_seconds
		var took dto.Metric
		if err := g.metrics.duration.Write(&took); err != nil || took.GetHistogram().GetSampleCount() != maxInFlight+wakeBurst {
			t.Errorf("%d wakes are timed; want %d (%v)", took.GetHistogram().GetSampleCount(), maxInFlight+wakeBurst, err)
		}
		g.counted(map[outcome]int{timeout: maxInFlight + wakeBurst, tooManyInFlight: 2 * wakeBurst})
	})
}

// One address sends wakes for any number of server-ids and for any time. The wakes of another
// address are still admitted.
func TestOneAddressLeavesRoomForTheWakesOfOthers(t *testing.T) {
	for name, manyFrom := range map[string]func(i int) netip.Addr{
		"one address": func(int) netip.Addr { return netip.MustParseAddr("192.0.2.1") },
		"three":       func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 3)}) },
		"an IPv6 /64": func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i)) },
		"an IPv6 /56": func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::1", i%256)) },
		"unknown":     func(int) netip.Addr { return netip.Addr{} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startGoogle(t, nil, []answer{hang})
				wave := func() (taken int) {
					for i := range 800 {
						if g.wakeFrom(manyFrom(i), wire.ServerID(fmt.Sprint("many-", i))) == nil {
							taken++
						}
					}
					return taken
				}
				if n := wave(); n < maxInFlight/2 || n >= maxInFlight {
					t.Errorf("%d wakes of these clients were admitted; want half of the %d places at least, and not all", n, maxInFlight)
				}
				for i := range 7 {
					if err := g.wakeFrom(netip.MustParseAddr("198.51.100.1"), "stranger"); err != nil {
						t.Errorf("a stranger's wake %d: %v", i, err)
					}
					time.Sleep(wakeTime + time.Second) // all have ended, and the same address sends again
					wave()
				}
				g.finish()
				for i := range 800 {
					if left := g.admission.byAddr.Load(network.Of(manyFrom(i))); left != 0 {
						t.Fatalf("%d wakes are charged to %v at the end; want none", left, manyFrom(i))
					}
				}
			})
		})
	}
}

func TestTheMemoryForAllowancesIsBounded(t *testing.T) {
	a := admission{gauge: func(float64) {}}
	now := time.Now()
	for i := range 5 * maxLimiters {
		a.limiter(wire.ServerID(fmt.Sprint(i)), now)
		if n := len(a.young) + len(a.old); n > 2*maxLimiters {
			t.Fatalf("%d limiters after %d server-ids", n, i+1)
		}
	}
	a.limiter("later", now.Add(time.Hour))
	a.limiter("latest", now.Add(2*time.Hour))
	if n := len(a.young) + len(a.old); n != 2 {
		t.Errorf("%d limiters when all but two are full again; want 2", n)
	}
}

func TestOnlyWakesForFCMWithATokenAreWakes(t *testing.T) {
	g := startGoogle(t, nil, nil)
	bad := []wire.PushWake{
		{}, {Platform: "fcm"}, {Token: "t"}, {Platform: "FCM", Token: "t"}, {Platform: "apns", Token: "t"}, {Platform: "fcm ", Token: "t"},
		{Platform: "fcm", Token: strings.Repeat("x", wire.MaxToken+1)},
	}
	for _, w := range bad {
		if err := g.Wake(netip.Addr{}, "s", w); err != ErrMalformed {
			t.Errorf("Wake(%.20v) = %v; want %v", w, err, ErrMalformed)
		}
	}
	if err := g.Wake(netip.Addr{}, "s", wire.PushWake{Platform: "fcm", Token: strings.Repeat("x", wire.MaxToken)}); err != nil {
		t.Errorf("a token as long as may be: %v", err)
	}
	g.finish()
	g.counted(map[outcome]int{malformed: len(bad), sent: 1})
}

func TestWithoutCredentialsPushIsOff(t *testing.T) {
	s := New(Config{})
	if err := s.Wake(netip.Addr{}, "s", wire.PushWake{Platform: "fcm", Token: "t"}); err != ErrOff {
		t.Errorf("Wake() = %v; want %v", err, ErrOff)
	}
	if got := value(s.metrics.wakes[off]); got != 1 || s.Project() != "" {
		t.Errorf("counted %v times, project %q; want once and none", got, s.Project())
	}
	s.Drain(t.Context())
}

// A wake in flight keeps its account. A later wake uses the new account, with an access token
// of its own.
func TestTheAccountMayChange(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	began, release := make(chan struct{}), make(chan struct{})
	first := true
	g := startGoogle(t, []answer{token(3600), token(3600)}, []answer{func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		asked = append(asked, r.URL.Path)
		wait := first
		first = false
		mu.Unlock()
		if wait {
			close(began)
			<-release
		}
		return sentAs("projects/x/messages/1")(r)
	}})
	if g.Use(account(t)) {
		t.Error("the same account is another")
	}
	if err := g.wake("a"); err != nil {
		t.Fatal(err)
	}
	<-began
	for _, c := range []*Credentials{account(t, "project_id", "pyry-2"), account(t, "project_id", "pyry-2", "private_key_id", "CANARY-2")} {
		if !g.Use(c) || g.Use(c) || g.Project() != "pyry-2" {
			t.Errorf("%v is not taken once; the project is %s", c, g.Project())
		}
	}
	if err := g.wake("b"); err != nil {
		t.Fatal(err)
	}
	if !g.Use(nil) || g.Use(nil) || g.wake("c") != ErrOff {
		t.Error("without an account it is not off")
	}
	close(release)
	g.finish()
	g.counted(map[outcome]int{sent: 2, off: 1})
	mu.Lock()
	defer mu.Unlock()
	if got, want := strings.Join(asked, " "), "/v1/projects/pyry-1/messages:send /v1/projects/pyry-2/messages:send"; got != want {
		t.Errorf("FCM was asked\n%s; want\n%s", got, want)
	}
	if bought, _ := g.total(); bought != 2 {
		t.Errorf("%d tokens were bought; want one for each account", bought)
	}
}

func TestADrainWaitsForWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(r *http.Request) (*http.Response, error) {
			time.Sleep(3 * time.Second)
			return sentAs("m")(r)
		}
		g := startGoogle(t, nil, []answer{slow})
		_ = g.wake("s")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		done := make(chan struct{})
		go func() { defer close(done); g.Drain(ctx) }()
		synctest.Wait()
		if err := g.wake("s"); err != ErrShutdown {
			t.Errorf("a wake while it drains: %v; want %v", err, ErrShutdown)
		}
		<-done
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("it took %v; want 3s", took)
		}
		g.counted(map[outcome]int{sent: 1, inShutdown: 1})
	})
}

func TestADrainCancelsWhenItsTimeIsOver(t *testing.T) {
	for name, tt := range map[string]struct {
		tokens, fcm []answer
		end         outcome
	}{
		"FCM hangs":                {nil, []answer{hang}, cancelled},
		"the token endpoint hangs": {[]answer{hang}, nil, cancelled},
		"between the two attempts": {nil, []answer{says(503, "", "Retry-After", "5")}, unavailable},
		"FCM hangs at the second":  {nil, []answer{says(503, ""), hang}, cancelled},
		"a token is waited for":    {[]answer{says(200, `{"access_token":"t","expires_in":1}`), hang}, nil, cancelled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startGoogle(t, tt.tokens, tt.fcm)
				const wakes = 5
				for range wakes {
					_ = g.wake("s")
				}
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				began := time.Now()
				g.Drain(ctx)
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("it took %v; want 3s", took)
				}
				if lines := strings.Count(g.log.String(), "\n"); lines != wakes {
					t.Errorf("%d lines for %d wakes:\n%s", lines, wakes, g.log.String())
				}
				n := 0.0
				for _, o := range []outcome{tt.end, sent} {
					n += value(g.metrics.wakes[o])
				}
				if n != wakes {
					t.Errorf("%v of %d ended as %s or were sent:\n%s", n, wakes, tt.end, g.log.String())
				}
			})
		})
	}
}

func TestAllSeriesAreThereFromTheStart(t *testing.T) {
	s := New(Config{})
	defer s.Drain(t.Context())
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s.Metrics()...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range families {
		n += len(f.Metric)
	}
	if n != len(outcomes)+2 { // the gauge, the histogram
		t.Errorf("%d series; want %d", n, len(outcomes)+2)
	}
}
