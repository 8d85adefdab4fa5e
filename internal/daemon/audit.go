package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/front"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Actions of operators.
const (
	actionKick         = "kick"
	actionBan          = "ban"
	actionUnban        = "unban"
	actionRemoveMember = "remove_member"
)

// Outcomes of actions.
const (
	outcomeDone    = "done"
	outcomeNothing = "nothing" // there was nothing to do
	outcomeRefused = "refused" // the request is not allowed, or wrong
)

// audit records what operators change in a running relay: a log record for each action,
// and a counter, which has refused requests, too.
type audit struct {
	log     *slog.Logger
	actions *prometheus.CounterVec
}

func newAudit(log *slog.Logger, reg prometheus.Registerer) (*audit, error) {
	a := &audit{log: log, actions: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pyrycode_relay_operator_actions_total",
		Help: "Requests of operators to change something in the running relay, at this node, by what became of them.",
	}, []string{"action", "outcome"})}
	for _, action := range []string{actionKick, actionBan, actionUnban, actionRemoveMember} {
		for _, outcome := range []string{outcomeDone, outcomeNothing, outcomeRefused} {
			a.actions.WithLabelValues(action, outcome)
		}
	}
	return a, reg.Register(a.actions)
}

// record is what an operator has done.
type record struct {
	action, outcome string
	what            string // in the form of the log, never a server-id
	why             string
	by              string
	at              string // the address, or the node, that the request came from
	count           int    // connections that were closed
}

// note writes r.
func (a *audit) note(r record) {
	a.actions.WithLabelValues(r.action, r.outcome).Inc()
	a.log.Warn("operator_action", "action", r.action, "what", r.what, "why", r.why, "by", r.by, "remote", r.at,
		"outcome", r.outcome, "count", r.count)
}

// refuse counts a request that is refused. It writes no record: a client without a
// password could then fill the log.
func (a *audit) refuse(action string) { a.actions.WithLabelValues(action, outcomeRefused).Inc() }

// operatorText is the number of bytes of an operator's text that are kept.
const operatorText = 200

// operatorOf returns the sender of r, as far as it is known: the user with the password that was
// accepted, the name in a verified certificate, or the user of a process that connects
// through a Unix socket.
func operatorOf(r *http.Request, asks bool) string {
	if name, _, ok := r.BasicAuth(); ok && asks {
		return "user " + wire.Printable(name, operatorText)
	}
	if asks && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return "certificate " + wire.Printable(r.TLS.VerifiedChains[0][0].Subject.String(), operatorText)
	}
	if uid, ok := r.Context().Value(peerKey{}).(int); ok {
		return fmt.Sprintf("uid %d", uid)
	}
	return "not known: the listener asks for no password"
}

// placeOf returns the address that r comes from, or unix.
func placeOf(r *http.Request) string {
	if _, ok := r.Context().Value(peerKey{}).(int); ok {
		return "unix"
	}
	return wire.Printable(r.RemoteAddr, operatorText)
}

// errNotPrivate is the reason why nothing can be changed through the private listener.
var errNotPrivate = errors.New("the private listener can be reached from other machines and asks for no password, so it changes nothing: give --web.config.file with a password, or listen on loopback or on unix:PATH")

// mayChange returns the reason why no request to the private listener may change
// anything, or nil. Metrics in a private network need no password; changes do.
func (p *process) mayChange() error {
	if !p.web.asks() && slices.ContainsFunc(p.addresses(p.private), front.Reachable) {
		return errNotPrivate
	}
	return nil
}

// peerKey is the key of the user-id of the process behind a Unix socket, in the context
// of its requests.
type peerKey struct{}

// unixConn returns the Unix socket below c, or nil.
func unixConn(c net.Conn) *net.UnixConn {
	for {
		if u, ok := c.(*net.UnixConn); ok {
			return u
		}
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = w.NetConn()
	}
}
