package daemon

import (
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Bounds of a scrape.
const (
	scrapeTimeout  = 10 * time.Second
	scrapesAtATime = 4
)

// readiness is why the process should not get new connections.
type readiness struct {
	mu     sync.Mutex
	reason string // empty: it should
}

func (r *readiness) set(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reason = reason
}

func (r *readiness) get() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reason
}

// ServeHTTP answers 200 ready, or 503 with the reason.
func (r *readiness) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if why := r.get(); why != "" {
		answer(w, http.StatusServiceUnavailable, "not ready: "+why)
		return
	}
	answer(w, http.StatusOK, "ready")
}

// answer writes one line of text.
func answer(w http.ResponseWriter, status int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintln(w, line)
}

// privateHandler is everything for operators.
func privateHandler(r *relay.Relay, ready *readiness, b Build, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(r.Metrics(), promhttp.HandlerOpts{
		Registry:            r.Metrics(),
		ErrorLog:            newErrorLog(log, "metrics"),
		Timeout:             scrapeTimeout,
		MaxRequestsInFlight: scrapesAtATime,
		EnableOpenMetrics:   true,
	}))
	mux.Handle("/healthz", r.Health())
	mux.Handle("/readyz", ready)
	mux.Handle("/debug/check", checkHandler(r.Check, r.Counts))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		io.WriteString(w, index(b))
	})
	return mux
}

// checkHandler answers 200 and a sentence that begins with ok, or 500 and what
// is wrong.
func checkHandler(check func() error, counts func() relay.Counts) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			answer(w, http.StatusInternalServerError, err.Error())
			return
		}
		c := counts()
		answer(w, http.StatusOK, fmt.Sprintf("ok: the gauges agree with what is connected (binaries %d, phones %d, in grace %d)",
			c.Binaries, c.Phones, c.InGrace))
	}
}

// links is what the index page leads to.
var links = [...]struct{ path, what string }{
	{"/metrics", "metrics for Prometheus"},
	{"/healthz", "alive, and how much is connected"},
	{"/readyz", "should new connections come here?"},
	{"/debug/check", "do the gauges agree with what is connected?"},
	{"/debug/pprof/", "profiles of the process"},
}

func index(b Build) string {
	page := "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>pyrycode-relay</title></head>\n<body><h1>pyrycode-relay</h1>\n<p>" +
		html.EscapeString(b.String()) + "</p>\n<ul>\n"
	for _, l := range links {
		page += fmt.Sprintf("<li><a href=\"%s\">%s</a> %s</li>\n", l.path, l.path, l.what)
	}
	return page + "</ul></body></html>\n"
}
