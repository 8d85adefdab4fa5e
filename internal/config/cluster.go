package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/natsbus"
)

// JoinTime is how long the relay waits at its start for NATS and for the
// directory: servers that start together need some seconds to agree.
const JoinTime = time.Minute

// Clustered reports whether c configures a cluster.
func (c Config) Clustered() bool { return c.Cluster != "" || c.ClusterEmbedded }

// NodeName returns the relay's name in the logs of all nodes: --cluster-name, or the
// name of its host if that is empty.
func (c Config) NodeName() string {
	if c.ClusterName != "" {
		return c.ClusterName
	}
	name, _ := os.Hostname() // without a name the logs have the id only
	return name
}

// cluster checks the options of the cluster.
func (v *validator) cluster(c Config) {
	if c.Cluster != "" && c.ClusterEmbedded {
		v.add("cluster", c.Cluster, "contradicts --cluster-embedded", "use one of them")
	}
	for _, u := range strings.Split(c.Cluster, ",") {
		if c.Cluster == "" {
			break
		}
		p, err := url.Parse(u)
		if err != nil || p.Hostname() == "" || !aPort(p.Port()) || p.Scheme != "nats" && p.Scheme != "tls" {
			v.add("cluster", c.Cluster, "must be nats://host:port or tls://host:port, several by comma", "for example nats://10.0.0.1:4222")
			break
		}
	}
	for _, o := range []struct {
		name, value string
		check       func([]byte) error
	}{{"cluster-creds", c.ClusterCreds, natsbus.CheckCreds}, {"cluster-ca", c.ClusterCA, checkCA}} {
		switch {
		case o.value == "":
		case c.Cluster == "":
			v.add(o.name, o.value, "has no use without --cluster", "give --cluster, or leave it out")
		default:
			text, err := ReadFile(o.value, MaxFile, false)
			if err != nil {
				v.add(o.name, o.value, fmt.Sprintf("must be a file that this user can read (%v)", err), "is that its name?")
			} else if err := o.check(text); err != nil {
				v.add(o.name, o.value, err.Error(), "is that the right file?")
			}
		}
	}
	if len(c.ClusterName) > 64 || strings.ContainsFunc(c.ClusterName, func(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }) {
		v.add("cluster-name", c.ClusterName, "must have at most 64 bytes, all of them printable", "for example relay-1")
	}
	if !c.ClusterEmbedded {
		if c.ClusterName != "" && c.Cluster == "" {
			v.add("cluster-name", c.ClusterName, "has no use without --cluster or --cluster-embedded", "give one of them, or leave it out")
		}
		for _, o := range []struct{ name, value string }{{"cluster-listen", c.ClusterListen}, {"cluster-peers", strings.Join(c.ClusterPeers, ",")}, {"cluster-secret", c.ClusterSecret}} {
			if o.value != v.defaults[o.name] {
				v.add(o.name, o.value, "has no use without --cluster-embedded", "give --cluster-embedded, or leave it out")
			}
		}
		return
	}
	v.embedded(c)
}

// embedded checks the options that --cluster-embedded needs.
func (v *validator) embedded(c Config) {
	if !natsbus.HasServer {
		v.add("cluster-embedded", "true", "is not possible with this program, which was built without a NATS server (the lean build)",
			"use the full program (make bin/pyrycode-relay), or NATS servers of your own with --cluster")
	}
	if _, port, err := net.SplitHostPort(c.ClusterListen); err == nil && strings.Trim(port, "0") == "" && port != "" {
		v.add("cluster-listen", c.ClusterListen, "must have a port that the other relays know", "the default is "+v.defaults["cluster-listen"])
	}
	v.address("cluster-listen", c.ClusterListen)
	where := reachOf(c.ClusterListen)
	if where == reachPublic {
		v.add("cluster-listen", c.ClusterListen, "must not be public: the connections between the servers are not encrypted",
			"listen on an address of a private network")
	}
	if where != reachLoopback && c.ClusterSecret == "" {
		v.add("cluster-secret", "", "is needed where other machines can reach --cluster-listen", "give all relays the same, for example the output of openssl rand -hex 32")
	}
	if c.ClusterName == "" {
		v.add("cluster-name", c.ClusterName, "is needed by --cluster-embedded", "give each relay its own, such as relay-1")
	} else if strings.Contains(c.ClusterName, " ") {
		v.add("cluster-name", c.ClusterName, "must be one word", "for example relay-1")
	}
	others := make(map[string]bool)
	for _, p := range c.ClusterPeers {
		host, port, err := net.SplitHostPort(p)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || perr != nil || n == 0 {
			v.add("cluster-peers", p, "must be host:port, several by comma", "for example 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222")
		}
		if p != c.ClusterListen {
			others[p] = true
		}
	}
	if len(others) < 2 {
		v.add("cluster-peers", strings.Join(c.ClusterPeers, ","), "must name the other two of three relays, or more", "for example 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222")
	}
}

// checkCA returns an error if text has no certificate.
func checkCA(text []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return errors.New("must be certificates (PEM)")
	}
	return nil
}
