package status

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// lister is a relay with its list of connections.
type lister struct {
	*relay.Relay
	t    *testing.T
	url  string // of the relay
	list http.Handler
}

func newLister(t *testing.T) *lister {
	r, err := relay.New(relay.Config{Grace: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(r.Handler())
	t.Cleanup(func() {
		done := make(chan struct{})
		r.Drain(0, func() { close(done) })
		srv.Close()
		r.Abort()
		<-done
	})
	return &lister{Relay: r, t: t, url: "ws" + strings.TrimPrefix(srv.URL, "http"), list: Connections(ConnectionsConfig{
		Relay: r, ShowID: func(id wire.ServerID) string { return "fp-" + string(id[len(id)-1:]) }, Node: "n1",
	})}
}

func (l *lister) dial(path, id string) *wstest.Conn {
	l.t.Helper()
	before := l.Counts()
	c, _, err := wstest.Dial(l.url+path, http.Header{"User-Agent": {"test"}, wire.HeaderServer: {id}, wire.HeaderVersion: {"v<1>"}})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	for end := time.Now().Add(10 * time.Second); l.Counts() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("%s does not connect", path)
		}
	}
	return c
}

func (l *lister) get(query, accept string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodGet, "/connections"+query, nil)
	req.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	l.list.ServeHTTP(w, req)
	return w
}

func (l *lister) json(query string) (list ConnectionList) {
	l.t.Helper()
	w := l.get(query, "*/*")
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != http.StatusOK {
		l.t.Fatalf("%s: %d %s (%v)", query, w.Code, w.Body, err)
	}
	return list
}

// conns returns the names of the connections of a list.
func (l ConnectionList) conns() string {
	var all []string
	for _, c := range l.Connections {
		all = append(all, c.Conn)
	}
	return strings.Join(all, " ")
}

func TestConnectionsAreFiltered(t *testing.T) {
	l := newLister(t)
	l.dial("/v1/server", "secret-a") // conn-1
	l.dial("/v1/server", "secret-b") // conn-2
	l.dial("/v1/client", "secret-a") // conn-3
	phone := l.json("?conn=conn-3").Connections[0].ConnID
	for _, tt := range []struct{ query, want string }{
		{"", "conn-1 conn-2 conn-3"},
		{"?server=fp-a", "conn-1 conn-3"},
		{"?server=secret-a", ""},
		{"?kind=phone", "conn-3"},
		{"?kind=binary&limit=1", "conn-1"},
		{"?kind=binary&cursor=1", "conn-2"},
		{"?state=serving", "conn-1 conn-2"},
		{"?state=in_grace", ""},
		{"?address=127.0.0.1", "conn-1 conn-2 conn-3"},
		{"?address=127.0.0.0/31&server=fp-b", "conn-2"},
		{"?address=192.0.2.0/24", ""},
		{"?conn=" + phone, "conn-3"},
		{"?sort=bytes&limit=2&kind=binary", "conn-1 conn-2"},
		{"?sort=rate&interval=100ms&kind=phone", "conn-3"},
		{"?server=&address=&kind=&state=&sort=", "conn-1 conn-2 conn-3"},
	} {
		if got := l.json(tt.query).conns(); got != tt.want {
			t.Errorf("%s: %s; want %s", tt.query, got, tt.want)
		}
	}
	if next := l.json("?limit=2").Next; next != "2" {
		t.Errorf("next is %q; want 2", next)
	}
	if next := l.json("?limit=3").Next; next != "" {
		t.Errorf("next of the last page is %q; want none", next)
	}
}

func TestConnectionsShowServerIDsAsTheLogDoes(t *testing.T) {
	l := newLister(t)
	l.dial("/v1/server", "secret-a")
	for query, want := range map[string]string{"": "fp-a", "?ids=log": "fp-a", "?ids=full": "secret-a"} {
		if got := l.json(query).Connections[0].ServerID; got != want {
			t.Errorf("%s: %s; want %s", query, got, want)
		}
	}
	if page := l.get("", "text/html").Body.String(); strings.Contains(page, "secret") || !strings.Contains(page, "fp-a") {
		t.Error("the page has another form of the server-id than the log")
	}
}

func TestConnectionsShowSlotsInGrace(t *testing.T) {
	l := newLister(t)
	l.dial("/v1/server", "secret-a").Close()
	for end := time.Now().Add(10 * time.Second); l.Counts().InGrace != 1 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	l.dial("/v1/client", "secret-a")
	list := l.json("?state=in_grace")
	if len(list.InGrace) != 1 || list.InGraceTotal != 1 || list.InGrace[0].Phones != 1 || list.InGrace[0].ServerID != "fp-a" {
		t.Fatalf("in grace %+v; want the slot of fp-a with 1 phone", list.InGrace)
	}
	if len(list.Connections) != 1 || list.Connections[0].GraceEnds == nil || !list.Connections[0].GraceEnds.Equal(list.InGrace[0].Ends) {
		t.Errorf("connections %+v; want the phone, until the end of the grace", list.Connections)
	}
	if got := l.json("?server=fp-b"); len(got.InGrace) != 0 {
		t.Errorf("in grace of another server-id: %+v", got.InGrace)
	}
}

func TestConnectionsRefuseWrongParameters(t *testing.T) {
	l := newLister(t)
	for query, want := range map[string]string{
		"?limit=0":           `parameter limit: "0" must be a number from 1 to 1000`,
		"?limit=1001":        `parameter limit: "1001" must be`,
		"?sort=name":         `parameter sort: "name" must be rate, bytes or waiting`,
		"?kind=x":            `parameter kind: "x" must be binary or phone`,
		"?address=x":         `parameter address: "x" must be an IP address`,
		"?conn=17":           `parameter conn: "17" must be a connection of the list`,
		"?cursor=x":          `parameter cursor: "x" must be the field next`,
		"?interval=1h":       `parameter interval: "1h" must be a time from 100ms to 10s`,
		"?nonsense=1":        `parameter "nonsense": there is none; the parameters are address, conn,`,
		"?ids=all":           `parameter ids: "all" must be full or log`,
		"?state=gone":        `parameter state: "gone" must be claiming,`,
		"?format=xml":        `parameter format: "xml" must be html or json`,
		"?interval=-1s":      `parameter interval: "-1s" must be`,
		"?cursor=-1&limit=1": `parameter cursor: "-1" must be`,
	} {
		w := l.get(query, "*/*")
		if got := w.Body.String(); w.Code != http.StatusBadRequest || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %d %s; want 400 %s", query, w.Code, got, want)
		}
	}
}

func TestOnlySoManyListsAreMadeAtATime(t *testing.T) {
	l := newLister(t)
	l.dial("/v1/server", "secret-a")
	answers := make(chan int)
	for range listsAtATime + 1 {
		go func() { answers <- l.get("?sort=rate&interval=2s", "*/*").Code }()
	}
	if first := <-answers; first != http.StatusServiceUnavailable {
		t.Errorf("the first answer is %d; want 503 of the list that is one too many", first)
	}
	for range listsAtATime {
		if code := <-answers; code != http.StatusOK {
			t.Errorf("another answer is %d; want 200", code)
		}
	}
}

func TestTheConnectionsPageInABrowser(t *testing.T) {
	b := openBrowser(t)
	l := newLister(t)
	for i := range 3 {
		l.dial("/v1/server", fmt.Sprintf("secret-%d", i))
		l.dial("/v1/client", fmt.Sprintf("secret-%d", i))
	}
	l.dial("/v1/server", "secret-9").Close()
	srv := httptest.NewServer(l.list)
	t.Cleanup(srv.Close)
	for _, width := range []int{390, 1280} {
		b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
		for _, scheme := range []string{"light", "dark"} {
			b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}}})
			for query, want := range map[string]string{
				"?": "In grace: 1", "?sort=rate&interval=100ms": "Per second", "?server=fp-1&kind=phone": "all connections", "?limit=2&still=1": "further connections",
			} {
				b.open(srv.URL + "/connections" + query)
				var text string
				var wide int
				var faint []string
				b.eval(`document.body.innerText`, &text)
				b.eval(`document.documentElement.scrollWidth`, &wide)
				b.eval(contrasts, &faint)
				if !strings.Contains(text, want) || !strings.Contains(text, "conn-") {
					t.Errorf("%d %s %s: %q or the connections do not show", width, scheme, query, want)
				}
				if wide > width {
					t.Errorf("%d %s %s: the page is %d wide", width, scheme, query, wide)
				}
				if len(faint) > 0 {
					t.Errorf("%d %s %s: too faint: %q", width, scheme, query, faint)
				}
			}
		}
	}
	if len(b.wrongs) > 0 {
		t.Errorf("the console was told: %s", b.wrongs)
	}
}
