package cluster

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// protocol is the version of everything that nodes say to each other.
const protocol = 1

// States of an entry in the directory.
const (
	stateLive  = "live"
	stateGrace = "grace"
)

// value is what an entry says.
type value struct {
	V     int    `json:"v"`
	Node  string `json:"node"`
	Nonce string `json:"nonce"`
	State string `json:"state"`
}

func (v value) bytes() []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // it holds nothing that could fail
	}
	return b
}

func parseValue(b []byte) (v value, ok bool) {
	return v, json.Unmarshal(b, &v) == nil && v.V == protocol
}

// keyOf is where the directory keeps id. A server-id may be secret and may
// hold any byte, so it never goes there itself.
func keyOf(id wire.ServerID) string {
	sum := sha256.Sum256([]byte(id))
	return "c." + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26]
}
