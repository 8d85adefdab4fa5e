package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"net"
	"strconv"
	"strings"
	"time"
)

// HeaderClaimKey is the optional header by which a binary binds its server-id to a key
// (docs/protocol.md, section 17).
const HeaderClaimKey = "x-pyrycode-claim-key"

// ClaimKeyWindow is the largest difference between the time in a claim key and the time at
// the relay.
const ClaimKeyWindow = 5 * time.Minute

// ClaimKey is the content of that header. The zero value means that there is no such
// header.
type ClaimKey struct {
	Public    string // the Ed25519 public key, of 32 bytes
	Time      int64  // when it was signed, in milliseconds since 1970
	signature string
}

// IsZero reports whether there is no header.
func (k ClaimKey) IsZero() bool { return k.Public == "" }

// ParseClaimKey parses the value of the header: v1, the public key, the time and the
// signature, joined by dots. The key and the signature are in the URL-safe alphabet of
// base64, without padding. An empty value gives the zero ClaimKey. Every error is a
// [*HeaderError].
func ParseClaimKey(value string) (k ClaimKey, err error) {
	if value == "" {
		return k, nil
	}
	parts := strings.Split(value, ".")
	if len(parts) != 4 || parts[0] != "v1" {
		return k, &HeaderError{HeaderClaimKey, "must be v1.KEY.TIME.SIGNATURE"}
	}
	public, err1 := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	signed, err2 := base64.RawURLEncoding.Strict().DecodeString(parts[3])
	at, err3 := strconv.ParseUint(parts[2], 10, 62)
	switch {
	case err1 != nil || len(public) != ed25519.PublicKeySize:
		return k, &HeaderError{HeaderClaimKey, "its key must be 32 bytes in base64url without padding"}
	case err3 != nil:
		return k, &HeaderError{HeaderClaimKey, "its time must be milliseconds since 1970"}
	case err2 != nil || len(signed) != ed25519.SignatureSize:
		return k, &HeaderError{HeaderClaimKey, "its signature must be 64 bytes in base64url without padding"}
	}
	return ClaimKey{Public: string(public), Time: int64(at), signature: string(signed)}, nil
}

// Check checks the time of k and its signature over a claim of id at a relay that the
// binary has addressed as host. host may have a port. Every error is a [*HeaderError].
func (k ClaimKey) Check(host string, id ServerID, now time.Time) error {
	if off := now.Sub(time.UnixMilli(k.Time)); off > ClaimKeyWindow || off < -ClaimKeyWindow {
		return &HeaderError{HeaderClaimKey, "its time differs from the relay's by more than 5 minutes; is the clock right?"}
	}
	if !ed25519.Verify(ed25519.PublicKey(k.Public), claimKeyText(host, id, k.Time), []byte(k.signature)) {
		return &HeaderError{HeaderClaimKey, "its signature is not over this host, time and server-id; does a proxy in front change Host?"}
	}
	return nil
}

// claimKeyText returns the text that the key signs.
func claimKeyText(host string, id ServerID, at int64) []byte {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	var b bytes.Buffer
	b.WriteString("pyrycode-claim-v1\n")
	b.WriteString(strings.ToLower(strings.Trim(host, "[]")))
	b.WriteByte('\n')
	b.WriteString(strconv.FormatInt(at, 10))
	b.WriteByte('\n')
	b.WriteString(string(id))
	return b.Bytes()
}

// SignClaimKey returns the value of the header for a claim of id at the relay that the
// binary addresses as host, signed at a time. The time of each claim must be later than
// that of the one before.
func SignClaimKey(key ed25519.PrivateKey, host string, id ServerID, at time.Time) string {
	ms := at.UnixMilli()
	return strings.Join([]string{"v1",
		base64.RawURLEncoding.EncodeToString(key.Public().(ed25519.PublicKey)),
		strconv.FormatInt(ms, 10),
		base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, claimKeyText(host, id, ms))),
	}, ".")
}
