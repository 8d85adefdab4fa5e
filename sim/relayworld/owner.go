package relayworld

import (
	"crypto/ed25519"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Claim keys: in some runs the binaries of most actors bind their server-id to a key, and
// those of one actor, the stranger, do not.

// stranger begins the names of the actors that have binaries without a key.
const stranger = "b2"

// notOwnerReason is the reason of a close because the server-id is bound to a key.
const notOwnerReason = "server-id is bound to another key"

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

// coverOwner marks the coverage goals of claim keys.
func (w *Instance) coverOwner(c *Client) {
	refused := c.Status == 403 && w.hist.MayLackOwner(c.Conn) && !w.hist.LacksAccess(c.Conn)
	w.Engine.Sometimes(sawNotOwner, refused && !c.hasKey())
	w.Engine.Sometimes(sawOldProof, refused && c.hasKey())
	w.Engine.Sometimes(sawNotOwnerLate, c.Reason == notOwnerReason)
}
