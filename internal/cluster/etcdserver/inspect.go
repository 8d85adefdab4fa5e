package etcdserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Fits returns an error if a relay with cfg, which need not be a member, cannot work with a
// majority of the members, for example because it has another secret. Members that do not
// answer count as members that fit.
func Fits(ctx context.Context, cfg Config) error {
	if why := cfg.refused(newPeers(cfg.Identity).ask(ctx, cfg.others())); why != "" {
		return errors.New(why)
	}
	return nil
}

// Inspect asks the other members, as Start does, and changes nothing. found lists the members
// that answer, unusual those that do not, or that do not fit to cfg.
func Inspect(ctx context.Context, cfg Config) (found, unusual []string) {
	p := newPeers(cfg.Identity)
	for _, a := range p.ask(ctx, cfg.others()) {
		switch why := cfg.complaint(a); {
		case why != "":
			if !slices.Contains(unusual, why) { // several members may say it
				unusual = append(unusual, why)
			}
		case a.err != nil:
			unusual = append(unusual, fmt.Sprintf("the relay at %s does not answer: %v; this is normal if it does not run yet", a.address, a.err))
		case a.formed():
			found = append(found, fmt.Sprintf("the relay at %s has the directory, with %d members (etcd %s)", a.address, len(a.members), a.version))
		default:
			found = append(found, fmt.Sprintf("the relay at %s waits for a majority (etcd %s)", a.address, a.version))
		}
	}
	return found, unusual
}
