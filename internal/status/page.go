package status

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	g "maragu.dev/gomponents"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Config has the sources of a Page.
type Config struct {
	// Metrics are the metrics that Prometheus scrapes.
	Metrics prometheus.Gatherer

	// Ready returns the reason for which the relay is not ready, or "".
	Ready func() string

	// Check returns the difference that the last count found between the gauges and
	// the connections, or nil.
	Check func() error

	Version, Revision, GoVersion string

	// Access is the value of --access.
	Access string

	// Peaks returns the peaks of the connections since its last call. Nil: the page
	// has only the numbers at each sample and page load.
	Peaks func() relay.Peaks

	// Links are the links at the end of the page.
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
	p.Sample()
	return p
}

// Sample takes a sample. The caller must call it once per SampleEvery.
func (p *Page) Sample() { p.history.sample() }

var (
	//go:embed page.css
	css string

	cssHash = sha256.Sum256([]byte("\n" + css))

	// policy allows the page's own style and its icon, and nothing else. The page has
	// no script, and a text on it cannot become one.
	policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(cssHash[:]) + "'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

// ServeHTTP serves the page. With ?still the page does not reload itself.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := view{Status: p.status(), Links: p.cfg.Links, Still: r.URL.Query().Has("still")}
	serve(w, policy, v.html())
}

// serve answers with a page.
func serve(w http.ResponseWriter, policy string, page g.Node) {
	Headers(w, "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("Referrer-Policy", "no-referrer") // an address may have a server-id
	var b strings.Builder
	_ = page.Render(&b) // a buffer takes everything
	_, _ = io.WriteString(w, b.String())
}

// JSON serves the same values for programs.
func (p *Page) JSON(w http.ResponseWriter, _ *http.Request) {
	Headers(w, "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(p.status()) // a peer that has gone needs no answer
}

// Headers sets the headers of an answer for operators, which no cache may keep.
func Headers(w http.ResponseWriter, kind string) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}
