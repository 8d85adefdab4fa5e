package config

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
)

// Findings are the results of Inspect.
type Findings struct {
	Problems []string `json:"problems"` // serve cannot run, or clients cannot use it
	Warnings []string `json:"warnings"` // unusual, or soon a problem
	Notes    []string `json:"notes"`    // checked and good
}

// certificateSoon is the remaining time of a certificate below which Inspect warns.
const certificateSoon = 14 * 24 * time.Hour

// Inspect checks c on this machine: files, ports, descriptors, memory, and the servers
// of the cluster. Check must have accepted c. Inspect listens on each port for a short
// time.
func (c Config) Inspect(ctx context.Context) Findings {
	return c.inspect(ctx, thisMachine(), time.Now())
}

func (c Config) inspect(ctx context.Context, m machine, now time.Time) Findings {
	f := Findings{Problems: []string{}, Warnings: []string{}, Notes: []string{}}
	f.certificate(c, now)
	f.webConfig(c, now)
	f.access(c, now)
	f.ports(ctx, c)
	f.cluster(ctx, c)
	f.machine(c, m)
	f.unusual(c)
	return f
}

func (f *Findings) problem(format string, args ...any) {
	f.Problems = append(f.Problems, fmt.Sprintf(format, args...))
}

func (f *Findings) warn(format string, args ...any) {
	f.Warnings = append(f.Warnings, fmt.Sprintf(format, args...))
}

func (f *Findings) note(format string, args ...any) {
	f.Notes = append(f.Notes, fmt.Sprintf(format, args...))
}

// certificate checks the certificate of the public listener.
func (f *Findings) certificate(c Config, now time.Time) {
	switch {
	case c.TLSCert != "":
		_, _, pair, err := ReadPair(c.TLSCert, c.TLSKey)
		if err != nil {
			f.problem("--tls-cert: %v", err) // the files have changed since Check
			return
		}
		if rule, fix := Unusable(pair.Leaf, now); rule != "" {
			f.problem("--tls-cert %s: %s; %s", c.TLSCert, rule, fix)
			return
		}
		f.lifetime("--tls-cert "+c.TLSCert, pair.Leaf, now)
	case c.Domain != "":
		if _, err := os.Stat(c.ACMEDir); err != nil {
			f.note("--acme-dir %s does not exist; serve creates it", c.ACMEDir)
		} else {
			f.note("--acme-dir %s belongs to this user alone, and is writable", c.ACMEDir)
		}
		if c.HTTPListen == "" && portOf(c.Listen) != "443" {
			f.warn("--http-listen is empty and --listen is %s: the authority connects to port 443, so that port must lead there", c.Listen)
		}
		if strings.Contains(c.ACMEDirectory, "staging") {
			f.warn("--acme-directory is an authority for tests: clients refuse its certificates")
		}
	}
}

// lifetime adds the finding on the remaining time of a usable certificate.
func (f *Findings) lifetime(where string, leaf *x509.Certificate, now time.Time) {
	left := leaf.NotAfter.Sub(now)
	end := leaf.NotAfter.UTC().Format("2006-01-02 15:04 MST")
	if left < certificateSoon {
		f.warn("the certificate in %s ends in %d days, on %s; renew it", where, int(left.Hours()/24), end)
		return
	}
	f.note("certificate and key match; valid for %s until %s", strings.Join(NamesOf(leaf), ", "), end)
}

// webConfig checks --web.config.file. An expired certificate of the private listener is
// only a warning, because operators' clients may be configured to accept it.
func (f *Findings) webConfig(c Config, now time.Time) {
	if c.WebConfigFile == "" {
		return
	}
	w, err := c.LoadWeb(nil)
	if err != nil {
		f.problem("--web.config.file %s: %v", c.WebConfigFile, err) // it has changed since Check
		return
	}
	if w.TLS != nil {
		if rule, fix := Unusable(w.TLS.Certificates[0].Leaf, now); rule != "" {
			f.warn("the certificate in --web.config.file %s %s; %s", c.WebConfigFile, rule, fix)
		}
	}
	if !w.Asks() {
		f.warn("--web.config.file %s asks for no password: every client that reaches --metrics-listen %s sees the operators' pages", c.WebConfigFile, c.MetricsListen)
	}
}

// ports tries to listen on each address that serve listens on. An address in use is
// a warning only, because the relay that runs already may use it. Every other
// failure also ends serve, and is a problem.
func (f *Findings) ports(ctx context.Context, c Config) {
	for _, a := range c.listeners() {
		if path, ok := UnixPath(a.address); ok { // Check has looked at its directory
			f.note("--%s: the socket %s can be created", a.option, path)
			continue
		}
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", a.address)
		if err != nil {
			why := (&ListenError{Option: a.option, Address: a.address, Err: err}).Error()
			if errors.Is(err, syscall.EADDRINUSE) {
				f.warn("%s; this is normal if a relay runs there already, or systemd has the socket", why)
			} else {
				f.problem("%s", why)
			}
			continue
		}
		defer ln.Close() // kept open until the end, because serve opens all of them
		f.note("--%s %s is free", a.option, a.address)
	}
}

// cluster tests the directory of the cluster.
func (f *Findings) cluster(ctx context.Context, c Config) {
	if !c.Clustered() {
		return
	}
	option := "cluster"
	if c.ClusterEmbedded {
		option = "cluster-peers"
	}
	d, err := c.Directory()
	if err != nil {
		f.problem("%v", err)
		return
	}
	found, unusual, err := directory.Installed().Inspect(ctx, d)
	for _, s := range found {
		f.note("--%s: %s", option, s)
	}
	for _, s := range unusual {
		f.warn("--%s: %s", option, s)
	}
	switch {
	case errors.As(err, new(directory.Final)):
		f.warn("--%s: %v; serve ends with this error", option, err)
	case err != nil:
		f.warn("--%s: %v; serve waits %s for it, and then fails", option, err, cli.TextOf(JoinTime))
	}
}

// machine checks the limits and privileges of this user.
func (f *Findings) machine(c Config, m machine) {
	need := uint64(c.MaxConns) + uint64(c.MaxPending) + spareFiles
	switch {
	case !m.filesKnown:
	case m.files < need:
		f.warn("this user may open %d files, and --max-conns and --max-pending need %d: serve lowers them; raise the limit (ulimit -n, LimitNOFILE=)", m.files, need)
	default:
		f.note("%d open files are enough for --max-conns and --max-pending, which need %d", m.files, need)
	}
	if limit := c.Memory(); limit == 0 {
		f.warn("memory has no limit: when the machine runs out of memory, the kernel may kill the relay; set --memory-limit")
	} else {
		f.note("memory is limited to %d MiB", limit>>20)
	}
	switch {
	case m.root && c.needsRoot():
		f.warn("this user is root, and the relay needs root only for ports below 1024: use another user with CAP_NET_BIND_SERVICE")
	case m.root:
		f.warn("this user is root, and the relay needs no privilege of root")
	}
	if m.root {
		f.note("root may read and write all files; to check the files of a service, run check as its user")
	}
}

// supervisorPatience is the time after which common supervisors kill a process that
// they stop. The relay asks systemd for more.
const supervisorPatience = 30 * time.Second

// unusual warns of values that are allowed and seldom intended.
func (f *Findings) unusual(c Config) {
	if c.Insecure && len(c.TrustedProxies) == 0 {
		f.warn("--insecure without --trusted-proxies: behind a proxy all clients have one address, and share its --rate and --max-conns-per-address")
	}
	if c.Heartbeat > time.Minute {
		f.warn("--heartbeat %s: many routers and proxies drop an idle connection after a minute", cli.TextOf(c.Heartbeat))
	}
	if c.Grace < 5*time.Second {
		f.warn("--grace %s: a daemon that restarts is seldom back so soon, and the relay closes its phones", cli.TextOf(c.Grace))
	}
	if c.Drain == 0 {
		f.warn("--drain 0s: a shutdown cuts all connections, and clients cannot tell it from a fault")
	}
	if most := c.DrainWait + c.Drain + c.Linger; most > supervisorPatience {
		f.warn("--drain-wait, --drain and --linger are %s together: Docker kills after 10s and Kubernetes after 30s, unless stop_grace_period or terminationGracePeriodSeconds is longer", cli.TextOf(most))
	}
	if c.LogLevel == "debug" {
		f.warn("--log-level debug: the relay logs many records for each connection")
	}
	if c.LogServerIDs == FullServerIDs {
		f.warn("--log-server-ids full: every reader of the log can join the server-ids in it")
	}
	if c.StateDir != "" && c.LogKeyFile == "" && c.LogServerIDs != FullServerIDs {
		f.warn("--state-dir without --log-key-file: bans survive a restart, and the fingerprints of their server-ids in the log, ps and bans are other ones after it")
	}
	if c.MaxConnsPerAddress > c.MaxConns {
		f.warn("--max-conns-per-address %d is more than --max-conns %d: one address can use all connections", c.MaxConnsPerAddress, c.MaxConns)
	}
	if most := min(c.MaxConnsPerAddress, c.MaxConns); c.Burst < most {
		f.warn("--burst %d is less than --max-conns-per-address %d: after a restart an address with so many connections needs at least %.0f s to restore them", c.Burst, most, float64(most-c.Burst)/c.Rate)
	}
}
