package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// service is the operator's service of a test: it gets the body of each question.
type service func(body asked, req *http.Request) (status int, answer string, err error)

func (s service) RoundTrip(req *http.Request) (*http.Response, error) {
	var body asked
	if err := json.NewDecoder(req.Body).Decode(&body); err != nil {
		return nil, err
	}
	status, text, err := s(body, req)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(text)), Header: http.Header{}, Request: req}, nil
}

// hangs is a service that does not answer until the question is given up.
func hangs(_ asked, req *http.Request) (int, string, error) {
	<-req.Context().Done()
	return 0, "", req.Context().Err()
}

// ask is a policy that asks s.
func ask(t *testing.T, s service, set func(*VerifierConfig)) *Policy {
	t.Helper()
	cfg := VerifierConfig{URL: "https://user:word@users.example.com/relay", Fail: FailClosed, Timeout: 3 * time.Second, Transport: s}
	if set != nil {
		set(&cfg)
	}
	v := NewVerifier(cfg)
	t.Cleanup(v.Stop)
	return NewURL(relay.Runtime{}, v)
}

func claimOf(id wire.ServerID) relay.AccessQuestion {
	return relay.AccessQuestion{Server: id, From: netip.MustParseAddr("192.0.2.7"), Version: "1.2", Token: "word"}
}

func TestTheVerifierIsAskedWithWhatThePeerSent(t *testing.T) {
	var got []asked
	var auth string
	p := ask(t, func(body asked, req *http.Request) (int, string, error) {
		got = append(got, body)
		auth = req.Header.Get("Authorization")
		return 200, `{"allow":true,"phones":3,"other":1}`, nil
	}, func(c *VerifierConfig) { c.Phones = true })
	terms, err := p.Ask(claimOf("s1"))
	if err != nil || terms.MaxPhones != 3 {
		t.Errorf("%+v, %v; want 3 phones", terms, err)
	}
	if _, err := p.Ask(relay.AccessQuestion{Phone: true, Server: "s1", From: netip.MustParseAddr("::1"), Device: "Pixel"}); err != nil {
		t.Error(err)
	}
	hash := SubjectOf("s1").String()
	want := []asked{
		{Endpoint: "server", ServerID: "s1", Hash: hash, Address: "192.0.2.7", Version: "1.2", Token: "word"},
		{Endpoint: "client", ServerID: "s1", Hash: hash, Address: "::1", Device: "Pixel"},
	}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("asked %+v; want %+v", got, want)
	}
	if auth != "" { // the transport of a test does not add it; net/http's client does
		if !strings.HasPrefix(auth, "Basic ") {
			t.Errorf("Authorization: %q", auth)
		}
	}
}

func TestPhonesAreNotAskedAboutByDefault(t *testing.T) {
	p := ask(t, func(asked, *http.Request) (int, string, error) { t.Error("asked"); return 403, "", nil }, nil)
	if _, err := p.Ask(relay.AccessQuestion{Phone: true, Server: "s1"}); err != nil {
		t.Error(err)
	}
}

func TestEachAnswerOfTheVerifierHasItsMeaning(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		fail   Fail
		want   int
		text   string
	}{
		{200, `{"allow":true}`, FailClosed, 0, ""},
		{200, `{"allow":false}`, FailOpen, 403, "does not allow this server-id"},
		{200, `{"allow":false,"reason":"not\npaid"}`, FailClosed, 403, `does not allow this server-id: not\npaid`},
		{403, `whatever`, FailOpen, 403, "does not allow this server-id"},
		{200, `{}`, FailClosed, 503, "it is not known now"},
		{200, `{"allow":1}`, FailClosed, 503, "it is not known now"},
		{200, `{"allow":true,"phones":-1}`, FailClosed, 503, "it is not known now"},
		{200, `{"allow":true,"cache_seconds":-1}`, FailClosed, 503, "it is not known now"},
		{200, `allow`, FailLast, 503, "it is not known now"},
		{200, `{"allow":true,"reason":"` + strings.Repeat("x", maxAnswer) + `"}`, FailClosed, 503, "it is not known now"},
		{500, `{"allow":true}`, FailClosed, 503, "it is not known now"},
		{302, ``, FailClosed, 503, "it is not known now"},
		{500, ``, FailOpen, 0, ""},
	} {
		p := ask(t, func(asked, *http.Request) (int, string, error) { return tt.status, tt.body, nil },
			func(c *VerifierConfig) { c.Fail = tt.fail })
		_, err := p.Ask(claimOf("s1"))
		got := 0
		if no, ok := errors.AsType[*relay.AccessRefusal](err); ok {
			got = no.Status
			if !strings.Contains(no.Text, tt.text) || (got == 503) != (no.Wait > 0) {
				t.Errorf("%d %.40s: %+v; want %q", tt.status, tt.body, no, tt.text)
			}
		}
		if got != tt.want {
			t.Errorf("%d %.40s, fail %s: %d; want %d", tt.status, tt.body, tt.fail, got, tt.want)
		}
	}
}

func TestAnAnswerHoldsForItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asks := 0
		answers := map[string]string{"s1": `{"allow":true}`, "s2": `{"allow":false}`, "s3": `{"allow":true,"cache_seconds":5}`, "s4": `{"allow":true,"cache_seconds":0}`}
		p := ask(t, func(body asked, _ *http.Request) (int, string, error) {
			asks++
			return 200, answers[body.ServerID], nil
		}, nil)
		for _, tt := range []struct {
			id    wire.ServerID
			holds time.Duration
		}{{"s1", time.Minute}, {"s2", 10 * time.Second}, {"s3", 5 * time.Second}, {"s4", 0}} {
			asks = 0
			_, _ = p.Ask(claimOf(tt.id))
			if tt.holds > 0 {
				time.Sleep(tt.holds - 1)
				_, _ = p.Ask(claimOf(tt.id))
				if asks != 1 {
					t.Errorf("%s: asked %d times within %v; want once", tt.id, asks, tt.holds)
				}
				time.Sleep(time.Nanosecond)
			}
			_, _ = p.Ask(claimOf(tt.id))
			if asks != 2 {
				t.Errorf("%s: asked %d times in all; want twice", tt.id, asks)
			}
		}
		asks = 0
		other := claimOf("s1")
		other.Token = "another"
		_, _ = p.Ask(other)
		other.From = netip.MustParseAddr("192.0.2.8")
		_, _ = p.Ask(other)
		if asks != 2 {
			t.Errorf("%d questions about another token and another address; want 2", asks)
		}
	})
}

func TestAnUnreachableVerifierMeansWhatTheOperatorHasChosen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			fail            Fail
			known, stranger int
		}{{FailClosed, 503, 503}, {FailLast, 0, 503}, {FailOpen, 0, 0}} {
			down := false
			p := ask(t, func(asked, *http.Request) (int, string, error) {
				if down {
					return 0, "", errors.New("connection refused")
				}
				return 200, `{"allow":true,"cache_seconds":1}`, nil
			}, func(c *VerifierConfig) { c.Fail = tt.fail })
			if got := status(t, p, claimOf("known")); got != 0 {
				t.Fatal(got)
			}
			down = true
			time.Sleep(2 * time.Second)
			if got := [...]int{status(t, p, claimOf("known")), status(t, p, claimOf("stranger"))}; got != [...]int{tt.known, tt.stranger} {
				t.Errorf("%s: known and stranger get %v; want %d, %d", tt.fail, got, tt.known, tt.stranger)
			}
		}
	})
}

func TestConcurrentQuestionsAboutOneClaimAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asks atomic.Int32
		p := ask(t, func(asked, *http.Request) (int, string, error) {
			asks.Add(1)
			time.Sleep(time.Second)
			return 200, `{"allow":true}`, nil
		}, nil)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if got := status(t, p, claimOf("s1")); got != 0 {
					t.Error(got)
				}
			})
		}
		all.Wait()
		if n := asks.Load(); n != 1 {
			t.Errorf("%d questions; want 1", n)
		}
	})
}

func TestAVerifierThatHangsIsGivenUpAndThenNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asks atomic.Int32
		p := ask(t, func(a asked, req *http.Request) (int, string, error) { asks.Add(1); return hangs(a, req) }, nil)
		for i := range tripAfter {
			began := time.Now()
			if got := status(t, p, claimOf(wire.ServerID(rune('a'+i)))); got != 503 || time.Since(began) != 3*time.Second {
				t.Errorf("%d after %v; want 503 after 3s", got, time.Since(began))
			}
		}
		began := time.Now()
		for range 1000 {
			if got := status(t, p, claimOf("s1")); got != 503 {
				t.Fatal(got)
			}
		}
		if took := time.Since(began); took != 0 || asks.Load() != tripAfter {
			t.Errorf("1,000 upgrades took %v and %d questions; want none while it is suspended", took, asks.Load()-tripAfter)
		}
		time.Sleep(tripTime + 1)
		_ = status(t, p, claimOf("s1"))
		if asks.Load() != tripAfter+1 {
			t.Errorf("%d questions after the suspension; want 1", asks.Load()-tripAfter)
		}
	})
}

func TestAWrongAnswerDoesNotSuspendTheVerifier(t *testing.T) {
	p := ask(t, func(body asked, _ *http.Request) (int, string, error) {
		if body.ServerID == "s1" {
			return 200, `{"allow":true,"cache_seconds":0}`, nil
		}
		return 500, "", nil
	}, nil)
	for range 10 * tripAfter {
		if got := status(t, p, claimOf("poison")); got != 503 {
			t.Fatal(got)
		}
	}
	if got := status(t, p, claimOf("s1")); got != 0 {
		t.Errorf("another client gets %d; want 0", got)
	}
}

func TestOnlySoManyUpgradesWaitForTheVerifier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ask(t, hangs, nil)
		var all sync.WaitGroup
		from := func(address string, id wire.ServerID) relay.AccessQuestion {
			q := claimOf(id)
			q.From = netip.MustParseAddr(address)
			return q
		}
		for i := range maxWaiting { // half of them may wait
			all.Go(func() { _ = status(t, p, from("192.0.2.7", wire.ServerID(fmt.Sprint(i)))) })
		}
		synctest.Wait()
		if got := p.verifier.waiting.all; got != maxWaiting/2 {
			t.Errorf("%d upgrades of one address wait; want %d", got, maxWaiting/2)
		}
		began := time.Now()
		if got := status(t, p, from("192.0.2.7", "s2")); got != 503 || time.Since(began) != 0 {
			t.Errorf("one more gets %d after %v; want 503 immediately", got, time.Since(began))
		}
		all.Go(func() { _ = status(t, p, from("192.0.2.8", "s2")) })
		synctest.Wait()
		w := &p.verifier.waiting
		w.mu.Lock()
		if w.all != maxWaiting/2+1 {
			t.Errorf("%d upgrades wait; want that of another address in addition", w.all)
		}
		w.mu.Unlock()
		all.Wait()
		if w.all != 0 || w.byNetwork.Sum() != 0 {
			t.Errorf("%d upgrades are counted, %d by network, when none waits", w.all, w.byNetwork.Sum())
		}
	})
}

func TestStopEndsTheWaitImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := ask(t, hangs, func(c *VerifierConfig) { c.Fail = FailOpen })
		done := make(chan int)
		go func() { done <- status(t, p, claimOf("s1")) }()
		synctest.Wait()
		began := time.Now()
		p.verifier.Stop()
		if got := <-done; got != 503 || time.Since(began) != 0 {
			t.Errorf("%d after %v; want 503 immediately, also with --access-url-fail open", got, time.Since(began))
		}
	})
}

func TestTheCacheIsBounded(t *testing.T) {
	v := NewVerifier(VerifierConfig{Fail: FailClosed})
	defer v.Stop()
	of := func(i int) question { return question{server: Subject{byte(i), byte(i >> 8), byte(i >> 16)}} }
	member := of(1 << 23)
	v.keep(member, answer{allow: true})
	for i := range 3 * maxAnswers {
		v.keep(of(i), answer{})
	}
	if n := len(v.denied.young) + len(v.denied.old); n > 2*maxAnswers {
		t.Errorf("%d answers are kept; want at most %d", n, 2*maxAnswers)
	}
	if a, ok := v.cached(member); !ok || !a.allow {
		t.Errorf("after refusals of made-up questions the answer for a member is %v, %t", a, ok)
	}
	v.keep(member, answer{reason: "no longer"})
	if a, ok := v.cached(member); !ok || a.allow {
		t.Errorf("the cached answer is %v, %t; want the last one", a, ok)
	}
}

func TestNoSecretIsInTheLog(t *testing.T) {
	var log strings.Builder
	p := ask(t, func(asked, *http.Request) (int, string, error) { return 0, "", errors.New("connection refused") }, func(c *VerifierConfig) {
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	for range 3 {
		_, err := p.Ask(claimOf("server-id-1"))
		if err == nil || strings.Contains(err.Error(), "word") || strings.Contains(err.Error(), "users.example.com") {
			t.Errorf("the peer gets %v", err)
		}
	}
	text := log.String()
	if strings.Count(text, "\n") != 1 || !strings.Contains(text, "connection refused") {
		t.Errorf("want one record with the reason; the log is\n%s", text)
	}
	for _, secret := range []string{"word", "server-id-1"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log has %q:\n%s", secret, text)
		}
	}
}

// Each question counts once in pyrycode_relay_access_questions_total. The histogram
// pyrycode_relay_access_question_duration_seconds has those that went to the service, and
// pyrycode_relay_access_verifier_suspended is 1 while none do.
func TestTheMetricsOfTheVerifierCountItsQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := `{"allow":true}`
		v := NewVerifier(VerifierConfig{URL: "https://users.example.com/relay", Fail: FailClosed, Timeout: 3 * time.Second,
			Transport: service(func(asked, *http.Request) (int, string, error) {
				if answer == "" {
					return 0, "", errors.New("gone")
				}
				return 200, answer, nil
			})})
		t.Cleanup(v.Stop)
		p := NewURL(relay.Runtime{}, v)
		want := func(answered, failed, timed, suspended int) {
			t.Helper()
			got := map[string]int{}
			ch := make(chan prometheus.Metric, 64)
			for _, c := range v.Metrics() {
				c.Collect(ch)
			}
			close(ch)
			for m := range ch {
				var d dto.Metric
				if err := m.Write(&d); err != nil {
					t.Fatal(err)
				}
				name := "gauge"
				for _, l := range d.GetLabel() {
					name = l.GetValue()
				}
				if h := d.GetHistogram(); h != nil {
					got["timed"] = int(h.GetSampleCount())
				} else {
					got[name] = int(d.GetCounter().GetValue() + d.GetGauge().GetValue())
				}
			}
			for name, n := range map[string]int{"answered": answered, "failed": failed, "timed": timed, "gauge": suspended} {
				if got[name] != n {
					t.Errorf("%s: %d; want %d", name, got[name], n)
				}
			}
		}
		want(0, 0, 0, 0)
		_ = status(t, p, claimOf("s1"))
		want(1, 0, 1, 0)
		answer = ""
		for i := range tripAfter {
			_ = status(t, p, claimOf(wire.ServerID(rune('a'+i))))
		}
		want(1, tripAfter, 1+tripAfter, 1)
	})
}

func TestAnAnswerWithAKeyTwiceIsWrong(t *testing.T) {
	for body, want := range map[string]bool{
		`{"allow":true}`:                 false,
		`{"allow":true,"phones":2}`:      false,
		`{"allow":false,"allow":true}`:   true,
		`{"allow":false,"Allow":true}`:   true,
		`{"allow":true,"x":{"allow":1}}`: false,
	} {
		if _, err := parseAnswer(200, []byte(body), time.Now()); (err != nil) != want {
			t.Errorf("%s: %v; want an error: %t", body, err, want)
		}
	}
}
