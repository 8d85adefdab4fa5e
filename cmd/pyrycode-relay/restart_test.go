package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// stopReserve is the time that a supervisor must wait in addition to the longest time
// that the relay takes to end.
const stopReserve = 5 * time.Second

// patientDaemon is the time that a deployed daemon waits for the answer to its upgrade.
const patientDaemon = 40 * time.Second

func deployFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "deploy", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// unit is a systemd unit: each key with its values, in order.
type unit map[string][]string

func deployUnit(t *testing.T, name string) unit {
	t.Helper()
	u := make(unit)
	for line := range strings.Lines(deployFile(t, "../../internal/install/systemd/"+name)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			u[key] = append(u[key], strings.Fields(value)...)
		}
	}
	return u
}

// A restart of the service must leave the sockets open. A stop of the public socket must
// stop the service and the other socket.
func TestTheUnitsKeepTheSocketsWhileTheServiceRestarts(t *testing.T) {
	const service, public, http = "pyrycode-relay.service", "pyrycode-relay.socket", "pyrycode-relay-http.socket"
	s, p, h := deployUnit(t, service), deployUnit(t, public), deployUnit(t, http)
	for _, tt := range []struct {
		name      string
		of        unit
		key, want string
	}{
		{service, s, "Requires", public},
		{service, s, "Wants", http},
		{service, s, "After", public},
		{service, s, "After", http},
		{public, p, "FileDescriptorName", daemon.SocketPublic},
		{public, p, "ListenStream", "443"},
		{http, h, "FileDescriptorName", daemon.SocketHTTP},
		{http, h, "ListenStream", "80"},
		{http, h, "Service", service},
		{http, h, "PartOf", public},
	} {
		if !slices.Contains(tt.of[tt.key], tt.want) {
			t.Errorf("%s: %s=%s; want %s in it", tt.name, tt.key, strings.Join(tt.of[tt.key], " "), tt.want)
		}
	}
	for name, u := range map[string]unit{service: s, public: p, http: h} {
		// Each of these closes a socket when the service restarts.
		for _, key := range []string{"PropagatesStopTo", "StopPropagatedFrom", "BindsTo"} {
			if len(u[key]) > 0 {
				t.Errorf("%s: %s=%s; want none", name, key, strings.Join(u[key], " "))
			}
		}
		if slices.Contains(u["PartOf"], service) {
			t.Errorf("%s: PartOf=%s; want no socket that restarts with the service", name, service)
		}
	}
	c := config.Default()
	if got, err := strconv.Atoi(strings.Join(p["Backlog"], "")); err != nil || got < c.MaxConns {
		t.Errorf("%s: Backlog=%v; want at least --max-conns, %d", public, p["Backlog"], c.MaxConns)
	}
	if got, err := time.ParseDuration(strings.Join(s["TimeoutStopSec"], "")); err != nil || got < c.DrainWait+c.Drain+c.Linger+stopReserve {
		t.Errorf("%s: TimeoutStopSec=%v; want at least %s", service, s["TimeoutStopSec"], c.DrainWait+c.Drain+c.Linger+stopReserve)
	}
}

// A kubeWorkload is the part of a Deployment or a StatefulSet that is about the end of a
// pod.
type kubeWorkload struct {
	Kind string
	Spec struct {
		Replicas int
		Strategy struct {
			Type          string
			RollingUpdate struct {
				MaxSurge       *int `yaml:"maxSurge"`
				MaxUnavailable *int `yaml:"maxUnavailable"`
			} `yaml:"rollingUpdate"`
		}
		Template struct {
			Spec struct {
				Grace      int `yaml:"terminationGracePeriodSeconds"`
				Containers []struct {
					Env       []struct{ Name, Value string }
					Readiness struct {
						HTTPGet  struct{ Path, Port string } `yaml:"httpGet"`
						Period   int                         `yaml:"periodSeconds"`
						Failures int                         `yaml:"failureThreshold"`
					} `yaml:"readinessProbe"`
				}
			}
		}
	}
}

// deployTimes returns the drain-wait, and the longest time that the relay takes to end.
// value returns the value of an option in the file, or "" if the file does not set it.
func deployTimes(value func(option string) string) (wait, all time.Duration, err error) {
	c := config.Default()
	times := map[string]*time.Duration{"drain-wait": &c.DrainWait, "drain-spread": &c.DrainSpread, "drain": &c.Drain, "linger": &c.Linger}
	for option, d := range times {
		if text := value(option); text != "" {
			if *d, err = time.ParseDuration(text); err != nil {
				return 0, 0, fmt.Errorf("%s: %w", option, err)
			}
		}
	}
	if c.DrainSpread > c.Drain {
		return 0, 0, fmt.Errorf("drain-spread is %s; want it within --drain, %s", c.DrainSpread, c.Drain)
	}
	return c.DrainWait, c.DrainWait + c.Drain + c.Linger, nil
}

// variable returns the environment variable of an option.
func variable(option string) string {
	return config.EnvPrefix + strings.ToUpper(strings.ReplaceAll(option, "-", "_"))
}

// In Kubernetes, a pod that ends is first removed from the Service. Then the relay closes
// its listener, then its connections. The pod must get enough time for that.
func TestKubernetesTakesARelayOutBeforeItCloses(t *testing.T) {
	for _, path := range []string{"kubernetes.yaml", "cluster/kubernetes.yaml"} {
		var w kubeWorkload
		if err := yaml.Unmarshal([]byte(deployFile(t, path)), &w); err != nil { // the first document
			t.Fatalf("%s: %v", path, err)
		}
		pod := w.Spec.Template.Spec
		relay := pod.Containers[0]
		wait, all, err := deployTimes(func(option string) string {
			for _, e := range relay.Env {
				if e.Name == variable(option) {
					return e.Value
				}
			}
			return ""
		})
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		probe := relay.Readiness
		if probe.HTTPGet.Path != "/readyz" || probe.HTTPGet.Port != "private" {
			t.Errorf("%s: the readiness probe asks %s on port %s; want /readyz on private", path, probe.HTTPGet.Path, probe.HTTPGet.Port)
		}
		if out := time.Duration(probe.Period*probe.Failures) * time.Second; out <= 0 || out >= wait {
			t.Errorf("%s: not ready after %s (periodSeconds × failureThreshold); want less than --drain-wait, %s", path, out, wait)
		}
		if grace := time.Duration(pod.Grace) * time.Second; grace < all+stopReserve {
			t.Errorf("%s: terminationGracePeriodSeconds is %s; want at least %s", path, grace, all+stopReserve)
		}
		if update := w.Spec.Strategy; w.Kind == "Deployment" && (update.Type != "RollingUpdate" ||
			update.RollingUpdate.MaxSurge == nil || *update.RollingUpdate.MaxSurge < 1 ||
			update.RollingUpdate.MaxUnavailable == nil || *update.RollingUpdate.MaxUnavailable != 0) {
			t.Errorf("%s: the strategy is %s; want a RollingUpdate with a maxSurge of 1 or more and a maxUnavailable of 0", path, update.Type)
		}
	}
}

// With the cluster's files, the balancer stops using a relay before the relay closes.
func TestTheBalancerTakesARelayOutBeforeItCloses(t *testing.T) {
	options := make(map[string]string)
	var file map[string]any
	if err := yaml.Unmarshal([]byte(deployFile(t, "cluster/pyrycode-relay.yml")), &file); err != nil {
		t.Fatal(err)
	}
	for k, v := range file {
		options[k] = fmt.Sprint(v)
	}
	wait, _, err := deployTimes(func(option string) string { return options[option] })
	if err != nil {
		t.Error(err)
	}
	m := regexp.MustCompile(`check inter (\S+) fall (\d+)`).FindStringSubmatch(deployFile(t, "cluster/haproxy.cfg"))
	if m == nil {
		t.Fatal("cluster/haproxy.cfg: no `check inter … fall …`")
	}
	inter, err := time.ParseDuration(m[1])
	fall, _ := strconv.Atoi(m[2])
	if out := inter * time.Duration(fall); err != nil || out <= 0 || out >= wait {
		t.Errorf("cluster/haproxy.cfg: out after inter %s × fall %s; want less than drain-wait, %s", m[1], m[2], wait)
	}
}

// While a relay restarts, the proxy in front of it holds new clients: longer than the
// restart takes, and not longer than a daemon waits.
func TestProxiesHoldClientsWhileTheRelayRestarts(t *testing.T) {
	_, all, err := deployTimes(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, how string
		hold      func(text string) time.Duration
	}{
		// HAProxy waits for timeout connect, or one second if that is less, before
		// it dials a server again that refused it.
		{"proxies/haproxy.cfg", "retries × timeout connect", haproxyHold},
		{"proxies/front.cfg", "retries × timeout connect", haproxyHold},
		{"proxies/Caddyfile", "lb_try_duration", func(text string) time.Duration { return durationAfter(text, "lb_try_duration") }},
	} {
		hold := tt.hold(deployFile(t, tt.path))
		if hold < all+stopReserve || hold >= patientDaemon {
			t.Errorf("%s: holds a client for %s (%s); want from %s to below %s", tt.path, hold, tt.how, all+stopReserve, patientDaemon)
		}
	}
}

func haproxyHold(text string) time.Duration {
	m := regexp.MustCompile(`(?m)^ +retries (\d+)$`).FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return time.Duration(n) * min(durationAfter(text, "timeout connect"), time.Second)
}

// durationAfter returns the duration that follows key on a line of its own.
func durationAfter(text, key string) time.Duration {
	m := regexp.MustCompile(`(?m)^\s+` + key + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	d, _ := time.ParseDuration(m[1])
	return d
}

// In compose.yaml clients connect through the proxy that holds them.
func TestComposeHoldsClientsWhileTheRelayIsReplaced(t *testing.T) {
	var file struct {
		Services map[string]struct {
			Environment map[string]string
			Command     any
			Ports       []string
			Stop        string `yaml:"stop_grace_period"`
			Networks    any
			Volumes     []string
		}
	}
	if err := yaml.Unmarshal([]byte(deployFile(t, "compose.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	relay, front := file.Services["relay"], file.Services["front"]
	_, all, err := deployTimes(func(option string) string { return relay.Environment[variable(option)] })
	if err != nil {
		t.Error(err)
	}
	if stop, err := time.ParseDuration(relay.Stop); err != nil || stop < all+stopReserve {
		t.Errorf("stop_grace_period of the relay is %s; want at least %s", relay.Stop, all+stopReserve)
	}
	if len(relay.Ports) > 0 || len(front.Ports) != 1 {
		t.Errorf("the relay publishes %v, the proxy in front of it %v; want nothing, and one port", relay.Ports, front.Ports)
	}
	host, _, _ := strings.Cut(relay.Environment[variable("metrics-listen")], ":")
	if want := "server relay " + host + ":8080\n"; !strings.Contains(deployFile(t, "proxies/front.cfg"), want) {
		t.Errorf("proxies/front.cfg does not pass on to the relay: want %q", want)
	}
	if !strings.Contains(fmt.Sprint(file.Services["probe"].Command), "ws://front:8080") {
		t.Errorf("the probe is %v; want it to connect as users do, through front", file.Services["probe"].Command)
	}
}
