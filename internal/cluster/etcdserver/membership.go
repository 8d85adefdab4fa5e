package etcdserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustercert"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
)

// Membership lists the members of a directory and removes one, for an operator. Relays with
// and without a member can use it.
type Membership struct {
	client *clientv3.Client
	peers  *peers
}

// NewMembership returns the membership of the directory behind c, which the caller closes.
func NewMembership(c *clientv3.Client, identity *clustercert.Identity) *Membership {
	return &Membership{c, newPeers(identity)}
}

// List returns all members, sorted by address. It needs no majority.
func (m *Membership) List(ctx context.Context) ([]directory.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	r, err := m.client.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return nil, explain(err)
	}
	members := listed(r.Members)
	leader := m.leader(ctx)
	var addrs []string
	for _, x := range members {
		addrs = append(addrs, x.address())
	}
	answers := m.peers.ask(ctx, addrs)
	all := make([]directory.Member, len(members))
	for i, x := range members {
		all[i] = shown(x)
		all[i].Leads = x.ID == leader
		all[i].Answers = answers[i].err == nil
	}
	slices.SortFunc(all, func(a, b directory.Member) int { return strings.Compare(a.Address, b.Address) })
	return all, nil
}

func shown(x member) directory.Member {
	return directory.Member{Name: x.Name, Address: x.address(), Votes: !x.Learner, Started: x.started()}
}

// leader returns the id of the member that decides on writes, or 0 if no member says so.
func (m *Membership) leader(ctx context.Context) uint64 {
	endpoints := m.client.Endpoints()
	if len(endpoints) == 0 {
		endpoints = []string{""} // the client calls the member in this process
	}
	for _, e := range endpoints {
		once, cancel := context.WithTimeout(ctx, askTimeout/3)
		s, err := m.client.Status(once, e)
		cancel()
		if err == nil && s.Leader != 0 {
			return s.Leader
		}
	}
	return 0
}

// Remove removes the member with a name or an address. It refuses a member that answers
// within deadFor: its relay would join again as soon as it is restarted. A majority of the
// members, without the one to remove, must run. Errors are sentences for the operator.
func (m *Membership) Remove(ctx context.Context, name string) (directory.Member, error) {
	once, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	r, err := m.client.MemberList(once)
	if err != nil {
		return directory.Member{}, fmt.Errorf("%s cannot be removed: %w; a majority of the members must run, because it decides on each change", name, explain(err))
	}
	x, err := choose(listed(r.Members), name)
	if err != nil {
		return directory.Member{}, err
	}
	for begun := time.Now(); time.Since(begun) < deadFor; sleep(ctx, retryEvery) {
		if a := m.peers.askOne(ctx, x.address()); a.err == nil {
			return shown(x), fmt.Errorf("%s is running: end its relay first, or it joins again", x)
		}
		if ctx.Err() != nil {
			return shown(x), context.Cause(ctx)
		}
	}
	once, cancel = context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	if _, err := m.client.MemberRemove(once, x.ID); err != nil {
		return shown(x), fmt.Errorf("%s cannot be removed: %w", x, explainRemoval(err))
	}
	return shown(x), nil
}

// choose returns the member with a name or an address.
func choose(members []member, name string) (found member, err error) {
	var all []string
	matches := 0
	for _, x := range members {
		all = append(all, x.String())
		if name != "" && (x.Name == name || x.address() == name) {
			found = x
			matches++
		}
	}
	switch {
	case matches > 1:
		return found, fmt.Errorf("%d members have the name %s: give the address of one; the members are %s", matches, name, strings.Join(all, ", "))
	case matches == 0:
		return found, fmt.Errorf("the directory has no member %q: the members are %s", name, strings.Join(all, ", "))
	}
	return found, nil
}

// explainRemoval is explain for the removal of a member.
func explainRemoval(err error) error {
	if errors.Is(err, rpctypes.ErrMemberNotEnoughStarted) || errors.Is(err, rpctypes.ErrUnhealthy) {
		return fmt.Errorf("the members that run would be no majority of the rest (%w); start another relay first", err)
	}
	return explain(err)
}
