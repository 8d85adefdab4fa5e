package wire

import "net/http"

// The headers of the upgrade request that the relay reads, in the spelling of clients.
// The relay does not read x-pyrycode-token, so it is not in this list.
const (
	HeaderServer    = "x-pyrycode-server"
	HeaderVersion   = "x-pyrycode-version"
	HeaderDevice    = "x-pyrycode-device-name"
	HeaderUserAgent = "user-agent"
)

// maxLogged is the length in bytes to which a header is cut that is used only in the log.
const maxLogged = 128

// BinaryHello is the content of the headers of a binary's upgrade request.
type BinaryHello struct {
	Server  ServerID
	Version string // for the log only: through Printable, at most 128 bytes
	Key     ClaimKey
}

// PhoneHello is the content of the headers of a phone's upgrade request.
type PhoneHello struct {
	Server ServerID
	Device string // for the log only: through Printable, at most 128 bytes; may be empty
}

// HeaderError names the header of an upgrade request that breaks a rule, and the rule. It
// never contains the header's value, so it may be sent to the peer and logged.
type HeaderError struct {
	Header string // one of the Header constants
	Rule   string // for example "missing or empty"
}

// Error returns one line such as
//
//	header x-pyrycode-server: missing or empty
func (e *HeaderError) Error() string { return "header " + e.Header + ": " + e.Rule }

// ParseBinaryHello parses the headers of a binary's upgrade request, which must have the
// server-id, the version and the user-agent, and may have a claim key. Its signature is
// not checked. It uses the first value of a repeated header
// and ignores the others, as [http.Header.Get] does. Every error is a [*HeaderError].
func ParseBinaryHello(h http.Header) (BinaryHello, error) {
	id, err := serverID(h)
	if err != nil {
		return BinaryHello{}, err
	}
	version := h.Get(HeaderVersion)
	if version == "" {
		return BinaryHello{}, missing(HeaderVersion)
	}
	if h.Get(HeaderUserAgent) == "" {
		return BinaryHello{}, missing(HeaderUserAgent)
	}
	key, err := ParseClaimKey(h.Get(HeaderClaimKey))
	if err != nil {
		return BinaryHello{}, err
	}
	return BinaryHello{Server: id, Version: Printable(version, maxLogged), Key: key}, nil
}

// ParsePhoneHello parses the headers of a phone's upgrade request, which must have the
// server-id and the user-agent. The device name is optional. Repeated headers and errors
// are as in [ParseBinaryHello].
func ParsePhoneHello(h http.Header) (PhoneHello, error) {
	id, err := serverID(h)
	if err != nil {
		return PhoneHello{}, err
	}
	if h.Get(HeaderUserAgent) == "" {
		return PhoneHello{}, missing(HeaderUserAgent)
	}
	return PhoneHello{Server: id, Device: Printable(h.Get(HeaderDevice), maxLogged)}, nil
}

func serverID(h http.Header) (ServerID, error) {
	id := h.Get(HeaderServer)
	if id == "" {
		return "", missing(HeaderServer)
	}
	if len(id) > MaxServerID {
		return "", &HeaderError{Header: HeaderServer, Rule: "longer than 256 bytes"}
	}
	return ServerID(id), nil
}

func missing(header string) error {
	return &HeaderError{Header: header, Rule: "missing or empty"}
}
