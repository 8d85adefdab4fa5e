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
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/front"
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
	// Listeners are the sockets that it has handed over, by name. A name may have
	// several, such as one for IPv4 and one for IPv6.
	Listeners map[string][]net.Listener

	// Notify tells it the process's state, in the form of sd_notify(3). It must
	// not wait for the supervisor.
	Notify func(state string)

	// Watchdog is how long it waits for a WATCHDOG=1. Zero means for ever.
	Watchdog time.Duration
}

// FromSystemd is what the environment says of a supervisor. It takes the
// variables out, so that no child believes them its own.
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
			return s, fmt.Errorf("the supervisor hands over a socket that is called %q: FileDescriptorName= must be one of %s", f.Name(), strings.Join(valid, ", "))
		}
		ln, err := net.FileListener(f)
		tcp, ok := ln.(*net.TCPListener)
		if err != nil || !ok || !front.IsListening(f) {
			return s, fmt.Errorf("the supervisor hands over a descriptor called %q that is no socket that listens for TCP: ListenStream= must be host:port, or a port, with Accept=no", f.Name())
		}
		s.Listeners[f.Name()] = append(s.Listeners[f.Name()], front.Adopt(tcp))
	}
	if s.Watchdog, err = systemd.SdWatchdogEnabled(true); err != nil {
		return s, fmt.Errorf("watchdog of the supervisor: %w", err)
	}
	s.Notify = newNotifier(func(state string) {
		_, _ = systemd.SdNotify(false, state) // without a supervisor there is nothing to do
	})
	return s, nil
}

// maxHandedOver is how many descriptors a supervisor may hand over.
const maxHandedOver = 64

// handedOver returns the descriptors that the supervisor has handed over, by the
// protocol of sd_listen_fds(3). It returns an error for values of its variables
// that the library would ignore, or believe.
func handedOver() ([]*os.File, error) {
	if pid, err := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return nil, nil // not for this process
	}
	value := os.Getenv("LISTEN_FDS")
	if value == "" {
		return nil, nil
	}
	if n, err := strconv.Atoi(value); err != nil || n < 0 || n > maxHandedOver {
		return nil, fmt.Errorf("the supervisor says LISTEN_FDS=%.40q: must be a number from 0 to %d", value, maxHandedOver)
	}
	return activation.Files(true), nil
}

// notifyQueue is how many states may wait for a supervisor that does not take
// them. It is enough for a restart and some minutes of a watchdog.
const notifyQueue = 64

// newNotifier returns a function that calls send for each state, one after the
// other, in a goroutine of its own: send waits for as long as the supervisor does
// not read, and the caller must not. States are dropped while notifyQueue of them
// wait.
func newNotifier(send func(state string)) func(state string) {
	var mu sync.Mutex // guards queue
	var queue []string
	return func(state string) {
		mu.Lock()
		defer mu.Unlock()
		if len(queue) == notifyQueue {
			return
		}
		queue = append(queue, state)
		if len(queue) > 1 {
			return // the goroutine comes to it
		}
		go func() {
			for next, more := state, true; more; {
				send(next)
				mu.Lock()
				queue = queue[1:]
				if more = len(queue) > 0; more {
					next = queue[0]
				}
				mu.Unlock()
			}
		}()
	}
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

// stopReserve is how long the process may need after its drain: to cut what is
// left, to leave a cluster whose servers do not answer, and to write its log.
const stopReserve = 15 * time.Second

// stopping tells the supervisor that the process drains, for at most drain, and
// asks it to wait that long and stopReserve.
func (s Supervisor) stopping(drain time.Duration) {
	s.tell("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=" +
		strconv.FormatInt((drain+stopReserve).Microseconds(), 10))
}

// watch notifies the watchdog, twice in the time that the supervisor waits,
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

// adopt returns c with the addresses of the supervisor's sockets in place of those
// that c has: these must not be exposed by mistake. Of several sockets of one name
// it takes the address that most can reach. It ignores the http socket unless
// Domain is set, because nothing else uses that socket.
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

// adoptOrigins returns a copy of from for the configuration that adopt returns for
// c: an address that adopt replaces comes from the supervisor.
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

// listen returns the supervisor's sockets of that name, or opens one.
func (p *process) listen(ctx context.Context, name, option, address string) ([]net.Listener, error) {
	if lns := p.env.Supervisor.Listeners[name]; len(lns) > 0 {
		return lns, nil
	}
	ln, err := front.Listen(ctx, option, address)
	return []net.Listener{ln}, err
}
