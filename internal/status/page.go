package status

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Config is what a Page shows.
type Config struct {
	// Metrics are what Prometheus scrapes.
	Metrics prometheus.Gatherer

	// Ready says why no new connection should come, or nothing if it may.
	Ready func() string

	// Check says how the gauges and what is connected differed when that was
	// last looked at.
	Check func() error

	Version, Revision, GoVersion string

	// Peaks returns the most that was connected since it was last called. Nil:
	// the page knows only what is connected when it takes a sample or is loaded.
	Peaks func() relay.Peaks

	// Links stand at the foot of the page.
	Links []Link
}

// Link is another page for operators.
type Link struct{ Path, What string }

// Page is the status page. Its methods may be called from any goroutine.
type Page struct {
	cfg     Config
	started time.Time
	history history
}

// New returns a page that has taken its first sample.
func New(cfg Config) *Page {
	p := &Page{cfg: cfg, started: time.Now(), history: history{metrics: cfg.Metrics, peaks: cfg.Peaks}}
	p.history.sample()
	return p
}

// Watch samples until ctx ends.
func (p *Page) Watch(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.history.sample()
		}
	}
}

var (
	//go:embed page.css
	css string

	//go:embed page.html
	html string

	page = template.Must(template.New("page").Funcs(functions).Parse(html))

	// policy lets nothing in but the page's own style and its icon: there is
	// no script, and an id or a reason on it could not become one.
	policy = "default-src 'none'; style-src 'sha256-" + digest("\n"+css) + "'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// ServeHTTP is the page. With ?still it does not load itself again.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var b strings.Builder
	if err := page.Execute(&b, view{Status: p.status(), CSS: template.CSS("\n" + css), Links: p.cfg.Links, Still: r.URL.Query().Has("still")}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	headers(w, "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Write([]byte(b.String()))
}

// JSON is the same for programs.
func (p *Page) JSON(w http.ResponseWriter, _ *http.Request) {
	headers(w, "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(p.status()) // a peer that has gone needs no answer
}

func headers(w http.ResponseWriter, kind string) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}
