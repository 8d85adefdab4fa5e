package cluster

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// protocol is the version of entries, questions, records and heartbeats.
const protocol = 2

// value is the value of an entry below claimsPrefix.
type value struct {
	V     int    `json:"v"`
	Node  string `json:"node"`
	Nonce string `json:"nonce"` // of the claim
}

func (v value) bytes() []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a value can always be marshalled
	}
	return b
}

func parseValue(b []byte) (v value, ok bool) {
	return v, json.Unmarshal(b, &v) == nil && v.V == protocol
}

// ownerOf returns what stands for the key of a claim in questions: its hash, or an empty
// text if there is none.
func ownerOf(key string) string {
	if key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:16])
}

// keyOf returns the key of id in the directory, a hash. A server-id may be
// secret and may contain any byte, so the directory never gets it.
func keyOf(id wire.ServerID) string {
	sum := sha256.Sum256([]byte(id))
	return claimsPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26]
}
