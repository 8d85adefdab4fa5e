package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustercert"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
)

// JoinTime is how long the relay waits at its start for the directory: relays that start
// together need some seconds to agree.
const JoinTime = time.Minute

// memberPorts is the number of ports of a relay with a member of the directory, from the
// one of --cluster-listen on.
const memberPorts = 3

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

// ClusterAddress returns the address under which other relays reach this one.
func (c Config) ClusterAddress() string {
	if c.ClusterAdvertise != "" {
		return c.ClusterAdvertise
	}
	return c.ClusterListen
}

// member reports whether this relay has a member of the directory.
func (c Config) member() bool {
	return c.ClusterEmbedded && slices.Contains(c.ClusterPeers, c.ClusterAddress())
}

// clusterDir returns the directory of the member's files, or "" if c names none.
func (c Config) clusterDir() string {
	if c.ClusterDir == "" && c.StateDir != "" {
		return filepath.Join(c.StateDir, "cluster")
	}
	return c.ClusterDir
}

// Directory returns how the relay reaches the directory of its cluster. Check must have
// accepted c. The caller sets Log and Failed.
func (c Config) Directory() (directory.Config, error) {
	id, err := clustercert.Derive(c.ClusterSecret, c.NodeName())
	if err != nil {
		return directory.Config{}, fmt.Errorf("--cluster-secret: %w", err)
	}
	d := directory.Config{User: c.ClusterUser, Password: c.ClusterPassword, CA: c.ClusterCA, Cert: c.ClusterCert, Key: c.ClusterKey,
		Name: c.NodeName(), Listen: c.ClusterListen, Advertise: c.ClusterAddress(), Identity: id}
	if c.ClusterEmbedded {
		d.Members, d.Dir, d.Fsync = c.ClusterPeers, c.clusterDir(), c.ClusterFsync
	} else {
		d.Endpoints = strings.Split(c.Cluster, ",")
	}
	return d, nil
}

// cluster checks the options of the cluster.
func (v *validator) cluster(c Config) {
	if !c.Clustered() {
		v.unclustered(c)
		return
	}
	if directory.Installed() == nil {
		option, value := "cluster", c.Cluster
		if c.ClusterEmbedded {
			option, value = "cluster-embedded", "true"
		}
		v.add(option, value, "is not possible with this program, which was built without clusters",
			"use pyrycode-relay-cluster (make bin/pyrycode-relay-cluster)")
	}
	if c.Cluster != "" && c.ClusterEmbedded {
		v.add("cluster", c.Cluster, "contradicts --cluster-embedded", "use one of them")
	}
	if len(c.ClusterName) > 64 || strings.ContainsFunc(c.ClusterName, func(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }) {
		v.add("cluster-name", c.ClusterName, "must have at most 64 bytes, all of them printable", "for example relay-1")
	}
	v.external(c)
	v.embedded(c)
	v.links(c)
}

// unclustered reports options of a cluster that have no use.
func (v *validator) unclustered(c Config) {
	for _, o := range []struct{ name, value string }{
		{"cluster-name", c.ClusterName}, {"cluster-listen", c.ClusterListen}, {"cluster-advertise", c.ClusterAdvertise},
		{"cluster-secret", c.ClusterSecret}, {"cluster-peers", strings.Join(c.ClusterPeers, ",")}, {"cluster-dir", c.ClusterDir},
		{"cluster-user", c.ClusterUser}, {"cluster-password", c.ClusterPassword},
		{"cluster-ca", c.ClusterCA}, {"cluster-cert", c.ClusterCert}, {"cluster-key", c.ClusterKey},
	} {
		if o.value != v.defaults[o.name] {
			v.add(o.name, o.value, "has no use without --cluster or --cluster-embedded", "give one of them, or leave it out")
		}
	}
}

// external checks the options for etcd servers that others run.
func (v *validator) external(c Config) {
	secure := true
	for _, u := range strings.Split(c.Cluster, ",") {
		if c.Cluster == "" {
			break
		}
		p, err := url.Parse(u)
		switch {
		case err == nil && (p.Scheme == "nats" || p.Scheme == "tls"):
			v.add("cluster", c.Cluster, "must have the servers of etcd: relays do not share server-ids over NATS any more",
				"for example https://10.0.0.1:2379, or --cluster-embedded in its place (docs/cluster.md has the migration)")
			return
		case err != nil || p.Hostname() == "" || p.Port() == "" || !aPort(p.Port()) || p.User != nil || strings.Trim(p.Path, "/") != "" || p.Scheme != "https" && p.Scheme != "http":
			v.add("cluster", c.Cluster, "must be https://host:port or http://host:port, several by comma", "for example https://10.0.0.1:2379; a user has --cluster-user")
			return
		}
		secure = secure && p.Scheme == "https"
	}
	for _, o := range []struct{ name, value string }{{"cluster-user", c.ClusterUser}, {"cluster-password", c.ClusterPassword},
		{"cluster-ca", c.ClusterCA}, {"cluster-cert", c.ClusterCert}, {"cluster-key", c.ClusterKey}} {
		file := o.name != "cluster-user" && o.name != "cluster-password"
		switch {
		case o.value == "":
		case c.Cluster == "":
			v.add(o.name, o.value, "has no use without --cluster", "give --cluster, or leave it out")
		case file && !secure:
			v.add(o.name, o.value, "has no use with http:// in --cluster", "write https://")
		case file:
			v.clusterFile(o.name, o.value)
		}
	}
	if (c.ClusterUser == "") != (c.ClusterPassword == "") {
		v.add("cluster-user", c.ClusterUser, "must be given together with --cluster-password", "give both, or a certificate")
	}
	if (c.ClusterCert == "") != (c.ClusterKey == "") {
		v.add("cluster-cert", c.ClusterCert, "must be given together with --cluster-key", "give both, or leave both out")
	}
}

// clusterFile checks that a file with certificates or a key can be read.
func (v *validator) clusterFile(option, name string) {
	text, err := ReadFile(name, MaxFile, option == "cluster-key")
	switch {
	case err != nil:
		v.add(option, name, fmt.Sprintf("must be a file that this user can read (%v)", err), "is that its name?")
	case option != "cluster-key":
		if err := checkCA(text); err != nil {
			v.add(option, name, err.Error(), "is that the right file?")
		}
	}
}

// embedded checks the options of a directory in the relays themselves.
func (v *validator) embedded(c Config) {
	if !c.ClusterEmbedded {
		for _, o := range []struct{ name, value string }{{"cluster-peers", strings.Join(c.ClusterPeers, ",")}, {"cluster-dir", c.ClusterDir}} {
			if o.value != v.defaults[o.name] {
				v.add(o.name, o.value, "has no use without --cluster-embedded", "give --cluster-embedded, or leave it out")
			}
		}
		return
	}
	if c.ClusterName == "" {
		v.add("cluster-name", c.ClusterName, "is needed by --cluster-embedded", "give each relay its own, such as relay-1")
	} else if strings.Contains(c.ClusterName, " ") {
		v.add("cluster-name", c.ClusterName, "must be one word", "for example relay-1")
	}
	const example = "for example 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222"
	for _, p := range c.ClusterPeers {
		if !clusterAddress(p) {
			v.add("cluster-peers", p, fmt.Sprintf("must be host:port with a port from 1 to %d, several by comma", 65536-memberPorts), example)
		}
	}
	peers := slices.Compact(slices.Sorted(slices.Values(c.ClusterPeers)))
	if n := len(peers); n != 3 && n != 5 {
		v.add("cluster-peers", strings.Join(c.ClusterPeers, ","), fmt.Sprintf("must name three or five relays, and names %d", n),
			"all relays get the same list; relays that it does not name are clients of these; "+example)
	}
	if !c.member() {
		return
	}
	if host, _, err := net.SplitHostPort(c.ClusterListen); err == nil && host != "" && net.ParseIP(host) == nil {
		v.add("cluster-listen", c.ClusterListen, "must have an IP address of this machine as its host", "give the name as --cluster-advertise")
	}
	if dir := c.clusterDir(); dir == "" {
		v.add("cluster-dir", "", "is needed by --cluster-embedded", "give a directory of this relay's own, or --state-dir")
	} else {
		v.ownDir("cluster-dir", dir, ownDir{closed: "it has the key of this relay", writable: "the directory of server-ids is kept there"})
	}
}

// clusterAddress reports whether a is the address of a relay with a member.
func clusterAddress(a string) bool {
	host, port, err := net.SplitHostPort(a)
	n, perr := strconv.ParseUint(port, 10, 16)
	return err == nil && host != "" && perr == nil && n > 0 && n <= 65536-memberPorts
}

// links checks the options for the connections between relays.
func (v *validator) links(c Config) {
	if len(c.ClusterSecret) < clustercert.MinSecret {
		v.add("cluster-secret", c.ClusterSecret, fmt.Sprintf("must have %d bytes or more: the relays of a cluster recognize each other by it", clustercert.MinSecret),
			"give all relays the same, for example the output of openssl rand -hex 32")
	}
	v.address("cluster-listen", c.ClusterListen)
	option, at := "cluster-listen", c.ClusterListen
	if c.ClusterAdvertise != "" {
		option, at = "cluster-advertise", c.ClusterAdvertise
	}
	host, _, err := net.SplitHostPort(at)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip.IsUnspecified() || !clusterAddress(at)) {
		v.add(option, at, fmt.Sprintf("must be an address that the other relays can connect to, with a port from 1 to %d", 65536-memberPorts),
			"listen on an address of a private network, or give --cluster-advertise")
	} else if err != nil && option == "cluster-advertise" {
		v.add(option, at, "must be host:port", "for example relay-1.internal:6222")
	}
}

// checkCA returns an error if text has no certificate.
func checkCA(text []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return errors.New("must be certificates (PEM)")
	}
	return nil
}
