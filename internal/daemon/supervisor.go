package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/front"
	"github.com/pyrycode/pyrycode-relay/internal/lifecycle"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Names of the sockets that a supervisor may hand over (FileDescriptorName=).
const (
	SocketPublic  = "public"  // in place of --listen
	SocketPrivate = "private" // in place of --metrics-listen
	SocketHTTP    = "http"    // in place of --http-listen
)

// Supervisor is systemd, or a program that acts like it. It keeps sockets open while the
// process restarts, so that no client is refused, and gets reports of the process's
// state. The zero value means no supervisor.
type Supervisor struct {
	// Listeners are the sockets that it has passed to the process, by name. A name
	// may have several, such as one for IPv4 and one for IPv6.
	Listeners map[string][]net.Listener

	// Notify reports the process's state to it, in the form of sd_notify(3). It
	// must not wait for the supervisor.
	Notify func(state string)

	// Watchdog is the time in which it expects a WATCHDOG=1. Zero means that it
	// expects none.
	Watchdog time.Duration
}

// FromSystemd returns the supervisor that the environment describes. It removes the
// variables, so that child processes do not use them.
func FromSystemd() (Supervisor, error) {
	s := Supervisor{Listeners: make(map[string][]net.Listener)}
	files, err := handedOver()
	if err != nil {
		return s, err
	}
	valid := []string{SocketPublic, SocketPrivate, SocketHTTP}
	for _, f := range files {
		defer f.Close() // a listener has a copy
		if !slices.Contains(valid, f.Name()) {
			return s, fmt.Errorf("the supervisor passes a socket with the name %q: FileDescriptorName= must be one of %s", f.Name(), strings.Join(valid, ", "))
		}
		ln, err := net.FileListener(f)
		tcp, ok := ln.(*net.TCPListener)
		if err != nil || !ok || !front.IsListening(f) {
			return s, fmt.Errorf("the supervisor passes a descriptor with the name %q that is not a listening TCP socket: ListenStream= must be host:port, or a port, with Accept=no", f.Name())
		}
		s.Listeners[f.Name()] = append(s.Listeners[f.Name()], front.Adopt(tcp))
	}
	if s.Watchdog, err = systemd.SdWatchdogEnabled(true); err != nil {
		return s, fmt.Errorf("watchdog of the supervisor: %w", err)
	}
	s.Notify = lifecycle.NewNotifier(relay.Runtime{}, func(state string) {
		_, _ = systemd.SdNotify(false, state) // without a supervisor there is nothing to do
	})
	return s, nil
}

// maxHandedOver is the number of descriptors that a supervisor may pass.
const maxHandedOver = 64

// handedOver returns the descriptors that the supervisor has passed, by the protocol of
// sd_listen_fds(3). It returns an error for bad values of the variables, which the
// library ignores or accepts.
func handedOver() ([]*os.File, error) {
	if pid, err := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return nil, nil // not for this process
	}
	value := os.Getenv("LISTEN_FDS")
	if value == "" {
		return nil, nil
	}
	if n, err := strconv.Atoi(value); err != nil || n < 0 || n > maxHandedOver {
		return nil, fmt.Errorf("the supervisor sets LISTEN_FDS=%.40q: must be a number from 0 to %d", value, maxHandedOver)
	}
	return activation.Files(true), nil
}

// tell reports a state to the supervisor. Without a supervisor it does nothing.
func (s Supervisor) tell(state string) {
	if s.Notify != nil {
		s.Notify(state)
	}
}

// Reloading reports the begin of a reload to the supervisor. The function that it returns
// reports the end. It is for [Env.Reloading].
func (s Supervisor) Reloading() (done func()) {
	s.tell("RELOADING=1\n" + systemd.SdNotifyMonotonicUsec())
	return func() { s.tell(systemd.SdNotifyReady) }
}

// stopReserve is the time that the process may need after its drain: to cut connections,
// to leave a cluster with silent servers, and to write its log.
const stopReserve = 15 * time.Second

// stopping reports to the supervisor that the process drains, for at most drain, and asks
// it to wait that long and stopReserve.
func (s Supervisor) stopping(drain time.Duration) {
	s.tell("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=" +
		strconv.FormatInt((drain+stopReserve).Microseconds(), 10))
}

// watch starts the watchdog, which tells the supervisor twice in the time that it waits
// that r lives. It takes the registry's lock each time, so that the supervisor restarts a
// relay with a lock that is never released. It returns nil if the supervisor expects
// nothing.
func (s Supervisor) watch(r *relay.Relay) *lifecycle.Watchdog {
	if s.Watchdog <= 0 || s.Notify == nil {
		return nil
	}
	return lifecycle.StartWatchdog(relay.Runtime{}, s.Watchdog/2, func() string {
		c := r.Counts()
		return fmt.Sprintf("STATUS=binaries %d, phones %d, in grace %d", c.Binaries, c.Phones, c.InGrace)
	}, s.tell)
}

// adopt returns c with the addresses of the supervisor's sockets instead of its own, so
// that Check also finds sockets that are exposed by mistake. Of several sockets with one
// name it uses the most exposed address. It ignores the http socket unless Domain is
// set, because nothing else uses that socket.
func (s Supervisor) adopt(c config.Config) config.Config {
	for name, at := range map[string]*string{SocketPublic: &c.Listen, SocketPrivate: &c.MetricsListen, SocketHTTP: &c.HTTPListen} {
		if name == SocketHTTP && c.Domain == "" {
			continue
		}
		for i, ln := range s.Listeners[name] {
			if address := ln.Addr().String(); i == 0 || config.MoreExposed(address, *at) {
				*at = address
			}
		}
	}
	return c
}

// adoptOrigins returns a copy of from for the result of adopt for c. The origin of an
// address that adopt replaces is the supervisor.
func (s Supervisor) adoptOrigins(c config.Config, from config.Origins) config.Origins {
	all := make(config.Origins, len(from))
	maps.Copy(all, from)
	for name, option := range map[string]string{SocketPublic: "listen", SocketPrivate: "metrics-listen", SocketHTTP: "http-listen"} {
		if len(s.Listeners[name]) > 0 && (name != SocketHTTP || c.Domain != "") {
			all[option] = config.Origin{Supervisor: true}
		}
	}
	return all
}

// closeUnused closes the sockets that c does not use, and returns a Supervisor
// without them. It logs one warning for the http socket, which only Domain uses.
func (s Supervisor) closeUnused(c config.Config, log *slog.Logger) Supervisor {
	unused := s.Listeners[SocketHTTP]
	if c.Domain != "" || len(unused) == 0 {
		return s
	}
	log.Warn("the supervisor's socket \"http\" is not used without --domain: give --domain, or disable that socket", "listen", unused[0].Addr())
	for _, ln := range unused {
		_ = ln.Close() // the relay never accepts on it
	}
	s.Listeners = maps.Clone(s.Listeners)
	delete(s.Listeners, SocketHTTP)
	return s
}

// listen returns the supervisor's sockets with that name, or opens one at address.
func (p *process) listen(ctx context.Context, name, option, address string) ([]net.Listener, error) {
	if lns := p.env.Supervisor.Listeners[name]; len(lns) > 0 {
		return lns, nil
	}
	ln, err := front.Listen(ctx, option, address)
	return []net.Listener{ln}, err
}
