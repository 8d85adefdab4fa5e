package daemon

import (
	"cmp"
	"fmt"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/status"
)

// Limits of scrapes.
const (
	scrapeTimeout  = 10 * time.Second
	scrapesAtATime = 4
)

// readiness has the reasons for which the process should get no new connections. Empty
// reasons mean that it is ready.
type readiness struct {
	mu        sync.Mutex
	reason    string // of the process itself
	directory string // of the cluster's directory
}

func (r *readiness) set(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reason = reason
}

func (r *readiness) get() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cmp.Or(r.reason, r.directory)
}

// setDirectory sets the reason of the directory.
func (r *readiness) setDirectory(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.directory = reason
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
func answer(w http.ResponseWriter, code int, line string) {
	status.Headers(w, "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintln(w, line)
}

// privateHandler returns the handler of all operators' pages of p.
func privateHandler(p *process) http.Handler {
	r, page := p.relay, p.page
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(r.Metrics(), promhttp.HandlerOpts{
		Registry:            r.Metrics(),
		ErrorLog:            p.errorLog("metrics"),
		Timeout:             scrapeTimeout,
		MaxRequestsInFlight: scrapesAtATime,
		EnableOpenMetrics:   true,
	}))
	mux.Handle("/healthz", r.Health())
	mux.Handle("/readyz", &p.ready)
	mux.Handle("/debug/check", checkHandler(r.Check, r.Counts))
	mux.HandleFunc("/debug/config", p.serveConfig)
	mux.Handle("/debug/log", p.recent)
	mux.Handle("/debug/fingerprint", fingerprintHandler(p.showID))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/{$}", page)
	mux.HandleFunc("/status.json", page.JSON)
	mux.Handle("/connections", status.Connections(status.ConnectionsConfig{Relay: r, ShowID: p.showServerID, Node: p.cluster.name()}))
	mux.HandleFunc(KickPath, p.operations.handler(actionKick, p.operations.kick))
	mux.HandleFunc(BansPath, p.operations.serveBans)
	mux.HandleFunc(UnbanPath, p.operations.handler(actionUnban, p.operations.unban))
	mux.HandleFunc(MembersPath, p.operations.serveMembers)
	mux.HandleFunc(RemoveMemberPath, p.operations.handler(actionRemoveMember, p.operations.removeMember))
	return notForAll(mux)
}

// notForAll answers 404 to "OPTIONS *", because the answer of ServeMux has no sentence.
func notForAll(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.RequestURI == "*" {
			http.NotFound(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// checkHandler answers 200 and a sentence that begins with ok, or 500 and the difference.
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

// links are the links at the end of the status page.
var links = []status.Link{
	{Path: "/connections", What: "every connection, and its traffic"},
	{Path: "/bans", What: "banned server-ids and networks"},
	{Path: "/status.json", What: "this page for programs"},
	{Path: "/metrics", What: "metrics for Prometheus"},
	{Path: "/healthz", What: "alive, and the numbers of connections"},
	{Path: "/readyz", What: "ready for new connections, or why not"},
	{Path: "/debug/check", What: "gauges compared with connections"},
	{Path: "/debug/config", What: "every option and its origin"},
	{Path: "/debug/log", What: "the last lines of the log"},
	{Path: "/debug/pprof/", What: "profiles of the process"},
}
