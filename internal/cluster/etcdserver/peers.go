package etcdserver

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/version"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustercert"
)

// The member's ports, relative to the port of its relay.
const (
	peerOffset   = 1
	clientOffset = 2
)

// askTimeout bounds a question to another member.
const askTimeout = 1500 * time.Millisecond

// portOf returns addr with its port increased by offset.
func portOf(addr string, offset int) (string, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || port+uint64(offset) > 65535 {
		return "", fmt.Errorf("address %s: the port must be from 1 to %d", addr, 65535-clientOffset)
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)+offset)), nil
}

// ClientEndpoints returns the URLs at which the members of the relays at addrs serve clients.
func ClientEndpoints(addrs []string) (all []string, err error) {
	for _, a := range addrs {
		at, err := portOf(a, clientOffset)
		if err != nil {
			return nil, err
		}
		all = append(all, "https://"+at)
	}
	return all, nil
}

// peerURL returns the URL at which the member of the relay at addr serves other members.
func peerURL(addr string) string {
	at, err := portOf(addr, peerOffset)
	if err != nil {
		return ""
	}
	return "https://" + at
}

// relayAt returns the address of the relay that has a member with this peer URL.
func relayAt(peerURL string) string {
	u, err := url.Parse(peerURL)
	if err != nil {
		return peerURL
	}
	at, _ := portOf(u.Host, -peerOffset) // empty without a port
	return cmp.Or(at, u.Host)
}

// member is a member as another member sees it.
type member struct {
	ID         uint64   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"isLearner"`
}

// started reports whether the member has ever run.
func (m member) started() bool { return len(m.ClientURLs) > 0 }

// address returns the address of the member's relay.
func (m member) address() string {
	if len(m.PeerURLs) == 0 {
		return ""
	}
	return relayAt(m.PeerURLs[0])
}

// String returns the member's name and address.
func (m member) String() string {
	if m.Name == "" || m.Name == m.address() {
		return m.address()
	}
	return m.Name + " (" + m.address() + ")"
}

// answer is the answer of the member at an address, or the reason why there is none.
type answer struct {
	address string
	cluster string // the id of its directory
	members []member
	version string // of its etcd
	err     error
}

// formed reports whether the answering member takes part in a directory that has begun.
func (a answer) formed() bool { return slices.ContainsFunc(a.members, member.started) }

// peers asks other members.
type peers struct{ client *http.Client }

func newPeers(identity *clustercert.Identity) *peers {
	return &peers{&http.Client{Timeout: askTimeout, Transport: &http.Transport{TLSClientConfig: identity.Client(), DisableKeepAlives: true}}}
}

// ask asks the members at all addresses concurrently. It returns within [askTimeout].
func (p *peers) ask(ctx context.Context, addrs []string) []answer {
	all := make([]answer, len(addrs))
	done := make(chan struct{})
	for i, a := range addrs {
		go func() {
			all[i] = p.askOne(ctx, a)
			done <- struct{}{}
		}()
	}
	for range addrs {
		<-done
	}
	return all
}

func (p *peers) askOne(ctx context.Context, addr string) (a answer) {
	a.address = addr
	header, err := p.get(ctx, peerURL(addr)+"/members", &a.members)
	if err != nil {
		a.err = err
		return a
	}
	a.cluster = header.Get("X-Etcd-Cluster-ID")
	var v struct {
		Server string `json:"etcdserver"`
	}
	if _, err := p.get(ctx, peerURL(addr)+"/version", &v); err == nil {
		a.version = v.Server
	}
	return a
}

// maxAnswer bounds the answer of a member, in bytes.
const maxAnswer = 64 << 10

func (p *peers) get(ctx context.Context, url string, into any) (http.Header, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	return resp.Header, json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into)
}

// wrongSecret reports whether err is a refusal of one of the certificates.
func wrongSecret(err error) bool {
	var unknown *tls.CertificateVerificationError
	if errors.As(err, &unknown) {
		return true
	}
	// The remote refuses this relay's certificate with an alert. The type of its error is not exported.
	text := fmt.Sprint(err)
	return strings.Contains(text, "remote error: tls: ") && (strings.Contains(text, "certificate") || strings.Contains(text, "authority"))
}

// complaint returns what is wrong between this member and the one that gave a, as a sentence,
// or "". An unreachable member is not wrong.
func (c Config) complaint(a answer) string {
	own := c.initialMembers()
	switch {
	case a.address == c.Advertise:
		return ""
	case a.err != nil && wrongSecret(a.err):
		return fmt.Sprintf("the relay at %s has another cluster secret", a.address)
	case a.err != nil:
		return ""
	case tooFar(a.version, version.Version):
		return fmt.Sprintf("the relay at %s has etcd %s and this one has %s: upgrade one minor version at a time", a.address, a.version, version.Version)
	}
	var theirs []string
	for _, m := range a.members {
		theirs = append(theirs, m.address())
		if m.Name == c.Name && m.address() != c.Advertise {
			return fmt.Sprintf("the relay at %s has the name %s, too: give each relay its own --cluster-name", m.address(), c.Name)
		}
	}
	slices.Sort(theirs)
	if !a.formed() && !slices.Equal(theirs, own) {
		return fmt.Sprintf("the relay at %s was started with the members %s, this one with %s: give all relays the same --cluster-peers",
			a.address, strings.Join(theirs, ", "), strings.Join(own, ", "))
	}
	return ""
}

// tooFar reports whether members with these versions cannot be in one directory: etcd
// supports neighbours among the minor versions.
func tooFar(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	am, an, ok1 := minor(a)
	bm, bn, ok2 := minor(b)
	return ok1 && ok2 && (am != bm || an-bn > 1 || bn-an > 1)
}

func minor(v string) (major, minor int, ok bool) {
	_, err := fmt.Sscanf(v, "%d.%d.", &major, &minor)
	return major, minor, err == nil
}
