package relayworld

import (
	"crypto/ed25519"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// Claim keys: in some runs the binaries of most actors bind their server-id to a key, and
// those of one actor, the stranger, do not.

// stranger begins the names of the actors whose binaries have no key.
const stranger = "b2"

// notOwnerReason is the reason of a close because the server-id is bound to a key.
const notOwnerReason = "server-id is bound to another key"

// ownerTime is how long an owner is remembered after the end of its slot.
const ownerTime = 10 * time.Minute

// hasKey reports whether c binds its server-id to the key of that server-id.
func (c *Client) hasKey() bool {
	return !c.Phone && c.w.Run.Param("keys", 0) == 1 && !strings.HasPrefix(c.user.Name, stranger)
}

// claimKey returns the header of c. The key depends on the server-id only, and each
// connection has a later time than the connections before it.
func (c *Client) claimKey(host string) string {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = byte(c.Server + 1)
	at := c.w.Engine.Time().Add(time.Duration(c.Number) * time.Millisecond)
	return wire.SignClaimKey(ed25519.NewKeyFromSeed(seed), host, wire.ServerID(Servers[c.Server]), at)
}

// mayLackOwner reports whether c may have been refused until then because of the owner of
// its server-id: a binary with the key came before, and c has no key, or an older proof.
func (w *Instance) mayLackOwner(c *Client, until engine.Stamp) bool {
	return !c.Phone && w.Binaries(c, func(b *Client) bool {
		return b.hasKey() && !b.DialedAt.After(until) && (!c.hasKey() || b.Number > c.Number)
	})
}

// judgeOwner checks that c, which has no key, was not served after a binary with the key
// was. In runs with operators that disconnect it checks nothing, because their requests
// make the relay forget the key.
func (w *Instance) judgeOwner(c *Client) {
	if c.Phone || c.hasKey() || c.Node.access != nil || w.ndisconnects > 0 || c.firstFrameAt().Step == 0 {
		return
	}
	if w.Binaries(c, func(b *Client) bool {
		since := b.firstFrameAt()
		return b.hasKey() && since.Step != 0 && !since.After(c.DialedAt) && c.firstFrameAt().At-since.At < int64(ownerTime)
	}) {
		w.Blame("owner", c, "served without the key of its server-id")
	}
}

// coverOwner marks the coverage goals of claim keys.
func (w *Instance) coverOwner(c *Client) {
	refused := c.Status == 403 && w.mayLackOwner(c, c.ServedAt) && !w.refusedForAccess(c)
	w.Engine.Sometimes(sawNotOwner, refused && !c.hasKey())
	w.Engine.Sometimes(sawOldProof, refused && c.hasKey())
	w.Engine.Sometimes(sawNotOwnerLate, c.Reason == notOwnerReason)
}
