package etcdserver

import (
	"context"
	"fmt"
)

// Inspect asks the other members, as Start does, and changes nothing. found lists the members
// that answer, unusual those that do not, or that do not fit to cfg.
func Inspect(ctx context.Context, cfg Config) (found, unusual []string) {
	p := newPeers(cfg.Identity)
	for _, a := range p.ask(ctx, cfg.others()) {
		switch why := cfg.complaint(a); {
		case why != "":
			unusual = append(unusual, why)
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
