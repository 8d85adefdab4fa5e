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

// ownerGoals are the coverage goals of claim keys.
var ownerGoals = ConnGoals{
	{goals.Add("a binary without the key of its server-id is refused"), func(c *Client) bool { return c.refusedByOwner() && !c.hasKey() }},
	{goals.Add("a binary with an old proof of the key is refused"), func(c *Client) bool { return c.refusedByOwner() && c.hasKey() }},
}

func (c *Client) refusedByOwner() bool {
	return c.Status == 403 && c.w.hist.MayLackOwner(c.Conn) && !c.w.hist.LacksAccess(c.Conn)
}
