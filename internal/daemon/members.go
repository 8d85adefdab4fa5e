package daemon

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
)

// Paths of the requests about the members of a cluster's directory.
const (
	MembersPath      = "/cluster/members"
	RemoveMemberPath = "/cluster/members/remove"
)

// MemberList is the content of MembersPath.
type MemberList struct {
	Members []directory.Member `json:"members"`
}

// errNoCluster says that the relay is alone.
var errNoCluster = errors.New("this relay is in no cluster: it has neither --cluster-embedded nor --cluster")

// conflict is the error of a request that is right in itself, and that the present state does
// not allow.
type conflict struct{ error }

// serveMembers answers with the members of the directory, or with 409 and the reason.
func (o *operations) serveMembers(w http.ResponseWriter, r *http.Request) {
	members, err := o.cluster.members(r.Context())
	if err != nil {
		answer(w, http.StatusConflict, err.Error())
		return
	}
	writeJSON(w, MemberList{members})
}

// removeMember removes a member of the directory.
func (o *operations) removeMember(r OperatorRequest, by, at string) (a OperatorAnswer, err error) {
	if r.For != "" || r.What == "" {
		return a, errors.New("what: must be the name or the address of a member; a removal has no for")
	}
	if o.cluster == nil {
		return a, conflict{errNoCluster}
	}
	// The removal is finished although the operator ends the command.
	m, err := o.cluster.directory.Remove(context.Background(), r.What)
	if err != nil {
		return a, conflict{err}
	}
	a.What = cmp.Or(m.Name, m.Address)
	o.audit.note(record{actionRemoveMember, outcomeDone, a.What, r.Why, by, at, 0})
	return a, nil
}

func (c *clustered) members(ctx context.Context) ([]directory.Member, error) {
	if c == nil {
		return nil, errNoCluster
	}
	return c.directory.Members(ctx)
}
