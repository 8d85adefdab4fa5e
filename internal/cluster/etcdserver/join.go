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
	"go.uber.org/zap"
)

const (
	// changeTimeout bounds one change of the membership, and retryEvery is the time between
	// two attempts.
	changeTimeout = 3 * time.Second
	retryEvery    = 250 * time.Millisecond

	// deadFor is how long a member must not have answered before another one takes its place.
	deadFor = 5 * time.Second
)

// place is a member's place in the directory.
type place struct {
	initialCluster string // the members at its first start, as etcd wants them
	existing       bool   // it joins a directory that exists
	learner        bool   // it has no vote yet
}

// others returns the addresses of the other members.
func (c Config) others() []string {
	return slices.DeleteFunc(c.initialMembers(), func(a string) bool { return a == c.Advertise })
}

// missing returns why the directory has no majority, as a sentence.
func (m *Member) missing(all []answer) string {
	var why, silent []string
	for _, a := range all {
		if c := m.cfg.complaint(a); c != "" {
			why = append(why, c)
		} else if a.err != nil {
			silent = append(silent, a.address)
		}
	}
	if len(silent) > 0 {
		why = append(why, "no answer from "+strings.Join(silent, ", ")+": is the relay there running, and may this machine connect to the port after that one?")
	}
	if len(why) == 0 {
		return "the members elect a leader"
	}
	return strings.Join(why, "; ")
}

// place decides how the member starts: see the comment of the package.
func (m *Member) place(ctx context.Context) (place, error) {
	all := m.peers.ask(ctx, m.cfg.others())
	if why := m.cfg.refused(all); why != "" {
		return place{}, errors.New(why)
	}
	i := slices.IndexFunc(all, func(a answer) bool { return a.err == nil && a.formed() })
	kept, err := m.keepsData(all)
	if err != nil || kept {
		return place{}, err
	}
	own := m.cfg.Name + "=" + peerURL(m.cfg.Advertise)
	if i < 0 { // the members create a directory
		list := []string{own}
		for _, a := range m.cfg.others() {
			list = append(list, a+"="+peerURL(a))
		}
		return place{initialCluster: strings.Join(list, ",")}, nil
	}
	found := all[i]
	if j := slices.IndexFunc(found.members, m.isOwn); j >= 0 && !found.members[j].started() {
		return place{initialCluster: initialCluster(found.members, own, m.isOwn), existing: true, learner: found.members[j].Learner}, nil
	}
	members, err := m.join(ctx, all)
	if err != nil {
		return place{}, err
	}
	return place{initialCluster: initialCluster(members, own, m.isOwn), existing: true, learner: true}, nil
}

// refused returns why this relay cannot work with a majority of the members, or "".
func (c Config) refused(all []answer) string {
	var why []string
	for _, a := range all {
		if s := c.complaint(a); s != "" {
			why = append(why, s)
		}
	}
	members := len(c.initialMembers())
	fit := members - len(why)
	why = slices.Compact(why) // two members may have the same complaint
	if fit > members/2 {
		for _, w := range why {
			c.Log.Warn("a relay does not fit into the cluster", "why", w)
		}
		return ""
	}
	return strings.Join(why, "; ")
}

// keepsData reports whether the member starts with the data in its directory. It discards
// data that must not be used any more.
func (m *Member) keepsData(all []answer) (bool, error) {
	o, ok, err := m.dir.owner()
	if err != nil {
		return false, err
	}
	switch {
	case !ok:
	case o.Address != m.cfg.Advertise:
		return false, fmt.Errorf("%s has the data of the relay at %s, and this one is at %s: give each relay its own directory, or delete it", m.dir.path, o.Address, m.cfg.Advertise)
	case o.Boot != "" && o.Boot != bootID():
		m.cfg.Log.Info("the machine has started again: the directory's data are fetched from the other relays")
	case slices.ContainsFunc(all, func(a answer) bool {
		return a.err == nil && a.formed() && !slices.ContainsFunc(a.members, func(x member) bool { return x.ID == o.Member })
	}):
		m.cfg.Log.Warn("this relay was removed from the directory: it joins again", "name", m.cfg.Name)
	default:
		return true, nil
	}
	return false, m.dir.discard()
}

func (m *Member) isOwn(x member) bool { return x.address() == m.cfg.Advertise }

// initialCluster returns members as etcd wants them. own replaces the entry of this member.
func initialCluster(members []member, own string, isOwn func(member) bool) string {
	list := []string{own}
	for _, x := range members {
		if !isOwn(x) {
			list = append(list, fmt.Sprintf("%x=%s", x.ID, x.PeerURLs[0]))
		}
	}
	return strings.Join(list, ",")
}

// join adds this member to a directory as a learner, and returns all members. all has the
// answers of other members, at least one of which takes part in the directory.
func (m *Member) join(ctx context.Context, all []answer) ([]member, error) {
	c, err := m.dial(all)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var last error
	for begun := time.Now(); ctx.Err() == nil; sleep(ctx, retryEvery) {
		members, err := m.tryJoin(ctx, c, time.Since(begun))
		var fixed *FullError
		if err == nil || errors.As(err, &fixed) {
			return members, err
		}
		if last == nil || last.Error() != err.Error() {
			m.cfg.Log.Info("joining the directory", "why", err.Error())
		}
		last = err
	}
	return nil, fmt.Errorf("join the directory: %w (%w)", context.Cause(ctx), last)
}

// dial returns a client of the members that take part in a directory.
func (m *Member) dial(all []answer) (*clientv3.Client, error) {
	var endpoints []string
	for _, a := range all {
		for _, x := range a.members {
			if a.err == nil && a.formed() && !m.isOwn(x) {
				endpoints = append(endpoints, x.ClientURLs...)
			}
		}
	}
	slices.Sort(endpoints)
	return clientv3.New(clientv3.Config{Endpoints: slices.Compact(endpoints), TLS: m.cfg.Identity.Client(), DialTimeout: changeTimeout, Logger: zap.NewNop()})
}

// FullError says that the directory has no place for this relay.
type FullError struct{ text string }

func (e *FullError) Error() string { return e.text }

// tryJoin makes the changes of the membership that join needs. waited is the time since the
// first attempt.
func (m *Member) tryJoin(ctx context.Context, c *clientv3.Client, waited time.Duration) ([]member, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	list, err := c.MemberList(ctx)
	if err != nil {
		return nil, explain(err)
	}
	members := listed(list.Members)
	if i := slices.IndexFunc(members, m.isOwn); i >= 0 {
		if members[i].Learner && !members[i].started() {
			return members, nil // an earlier attempt has added it
		}
		if _, err := c.MemberRemove(ctx, members[i].ID); err != nil {
			return nil, explain(err)
		}
	} else if len(members) >= len(m.cfg.initialMembers()) {
		gone, err := m.replaceable(ctx, members, waited)
		if err != nil {
			return nil, err
		}
		if _, err := c.MemberRemove(ctx, gone.ID); err != nil {
			return nil, explain(err)
		}
		m.cfg.Log.Warn("this relay takes the place of another one in the directory", "name", gone.String())
	}
	added, err := c.MemberAddAsLearner(ctx, []string{peerURL(m.cfg.Advertise)})
	if err != nil {
		return nil, explain(err)
	}
	return listed(added.Members), nil
}

// replaceable returns a member that this relay may replace: its configuration does not name
// it, and it has not answered for deadFor.
func (m *Member) replaceable(ctx context.Context, members []member, waited time.Duration) (gone member, err error) {
	var candidates []member
	for _, x := range members {
		if !slices.Contains(m.cfg.Members, x.address()) {
			candidates = append(candidates, x)
		}
	}
	if len(candidates) == 0 {
		return gone, &FullError{fmt.Sprintf("the directory has its %d members, and --cluster-peers names all of them and this relay: name as many as the directory has, without the one that is gone", len(members))}
	}
	for _, x := range candidates {
		if a := m.peers.askOne(ctx, x.address()); a.err != nil {
			if waited < deadFor {
				return gone, fmt.Errorf("%s is not in --cluster-peers and does not answer: this relay takes its place if that stays so for %s", x, deadFor)
			}
			return x, nil
		}
	}
	return gone, &FullError{fmt.Sprintf("the directory has its %d members, and %s, which --cluster-peers does not name, is running: end it first", len(members), candidates[0])}
}

// listed converts members of etcd's API.
func listed[M interface {
	GetID() uint64
	GetName() string
	GetPeerURLs() []string
	GetClientURLs() []string
	GetIsLearner() bool
}](all []M) (members []member) {
	for _, x := range all {
		members = append(members, member{x.GetID(), x.GetName(), x.GetPeerURLs(), x.GetClientURLs(), x.GetIsLearner()})
	}
	return members
}

// promote gives this member a vote as soon as it has all data.
func (m *Member) promote(ctx context.Context) error {
	c, err := m.dial(m.peers.ask(ctx, m.cfg.others()))
	for ; errors.Is(err, clientv3.ErrNoAvailableEndpoints) && ctx.Err() == nil; sleep(ctx, retryEvery) { // no other member has answered in time
		c, err = m.dial(m.peers.ask(ctx, m.cfg.others()))
	}
	if err != nil {
		return fmt.Errorf("get a vote in the directory: %w", err)
	}
	defer c.Close()
	for {
		once, cancel := context.WithTimeout(ctx, changeTimeout)
		_, err := c.MemberPromote(once, uint64(m.etcd.Server.MemberID()))
		cancel()
		if err == nil || errors.Is(err, rpctypes.ErrMemberNotLearner) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("get a vote in the directory: %w (%w)", context.Cause(ctx), explain(err))
		}
		sleep(ctx, retryEvery)
	}
}

// explain returns err as a sentence.
func explain(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrTimeout):
		return fmt.Errorf("the directory has no majority: %w", err)
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return fmt.Errorf("another relay joins at the moment: %w", err)
	case errors.Is(err, rpctypes.ErrUnhealthy):
		return fmt.Errorf("the directory's members are not all connected: %w", err)
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
