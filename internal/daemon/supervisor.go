package daemon

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Names of the sockets that a supervisor may hand over (FileDescriptorName=).
const (
	SocketPublic  = "public"  // in place of --listen
	SocketPrivate = "private" // in place of --metrics-listen
	SocketHTTP    = "http"    // in place of --http-listen
)

// Supervisor is systemd, or who acts like it: sockets that outlive the
// process, so that nobody is refused while it restarts, and somebody who
// wants to know how it is. The zero value is nobody.
type Supervisor struct {
	// Listeners are the sockets it has handed over, by name.
	Listeners map[string]net.Listener

	// Notify tells it the process's state, in the form of sd_notify(3).
	Notify func(state string)

	// Watchdog is how long it waits for a sign of life. Zero: for ever.
	Watchdog time.Duration
}

// FromSystemd is what the environment says of a supervisor. It takes the
// variables out, so that no child believes them its own.
func FromSystemd() (Supervisor, error) {
	s := Supervisor{Listeners: make(map[string]net.Listener)}
	named, err := activation.ListenersWithNames()
	if err != nil {
		return s, fmt.Errorf("sockets of the supervisor: %w", err)
	}
	valid := []string{SocketPublic, SocketPrivate, SocketHTTP}
	for name, lns := range named {
		if !slices.Contains(valid, name) || len(lns) != 1 || lns[0] == nil {
			return s, fmt.Errorf("the supervisor hands over %d sockets called %q: FileDescriptorName= must be one of %s, each for one TCP socket",
				len(lns), name, strings.Join(valid, ", "))
		}
		s.Listeners[name] = lns[0]
	}
	if s.Watchdog, err = systemd.SdWatchdogEnabled(true); err != nil {
		return s, fmt.Errorf("watchdog of the supervisor: %w", err)
	}
	s.Notify = func(state string) { _, _ = systemd.SdNotify(false, state) } // nobody there is no error
	return s, nil
}

// tell notifies the supervisor, if there is one.
func (s Supervisor) tell(state string) {
	if s.Notify != nil {
		s.Notify(state)
	}
}

// Reloading tells of a reload, and by what it returns of its end: for
// [Env.Reloading].
func (s Supervisor) Reloading() (done func()) {
	s.tell("RELOADING=1\n" + systemd.SdNotifyMonotonicUsec())
	return func() { s.tell(systemd.SdNotifyReady) }
}

// stopping says that the process ends and how long that may take.
func (s Supervisor) stopping(most time.Duration) {
	s.tell("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=" +
		strconv.FormatInt((most+2*cutTime).Microseconds(), 10))
}

// watch gives a sign of life, twice in the time that the supervisor waits,
// until ctx ends. It goes through the registry's lock: a relay whose lock is
// stuck is not alive, and is restarted.
func (s Supervisor) watch(ctx context.Context, r *relay.Relay) {
	if s.Watchdog <= 0 || s.Notify == nil {
		return
	}
	every(ctx, s.Watchdog/2, func() {
		c := r.Counts()
		s.tell(fmt.Sprintf("WATCHDOG=1\nSTATUS=binaries %d, phones %d, in grace %d", c.Binaries, c.Phones, c.InGrace))
	})
}

// adopt puts the addresses of the supervisor's sockets into c: it is they
// that must not be exposed by mistake.
func (s Supervisor) adopt(c Config) Config {
	for name, at := range map[string]*string{SocketPublic: &c.Listen, SocketPrivate: &c.MetricsListen, SocketHTTP: &c.HTTPListen} {
		if ln := s.Listeners[name]; ln != nil {
			*at = ln.Addr().String()
		}
	}
	return c
}

// listen takes the supervisor's socket of that name, or opens one.
func (p *process) listen(ctx context.Context, name, option, address string) (net.Listener, error) {
	ln := p.env.Supervisor.Listeners[name]
	if ln == nil {
		return listen(ctx, option, address)
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return nil, &ListenError{Option: option, Address: address, Err: fmt.Errorf("the supervisor's socket is not TCP")}
	}
	return adopted{tcp}, nil
}

// adopted is a listener whose accepted sockets get the settings that those of
// ours inherit.
type adopted struct{ *net.TCPListener }

// Accept waits for a connection.
func (l adopted) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	// It may be gone already; then its first read says so.
	_ = c.SetKeepAliveConfig(keepAlive)
	if raw, err := c.SyscallConn(); err == nil {
		_ = tuneSocket("", "", raw)
	}
	return c, nil
}
