package wire

// CloseCode is the status code of a WebSocket close (RFC 6455 §7.4).
type CloseCode uint16

// The close codes that the relay itself sends or handles. Binaries close their phones
// with others, which the relay passes through.
const (
	// CloseNone means that no code was given. It is never sent: RFC 6455 §7.1.5
	// expresses it by an empty close payload.
	CloseNone CloseCode = 0

	CloseNormal      CloseCode = 1000 // plain teardown, grace expiry
	CloseGoingAway   CloseCode = 1001 // the relay shuts down
	CloseProtocol    CloseCode = 1002 // the peer broke RFC 6455
	CloseInvalidData CloseCode = 1007 // not JSON, or not UTF-8
	ClosePolicy      CloseCode = 1008 // too many fragments, control messages or bad envelopes
	CloseTooBig      CloseCode = 1009 // message over the limit
	CloseInternal    CloseCode = 1011 // heartbeat missed, backlog full
	CloseRestart     CloseCode = 1012 // the relay restarts (IANA registry)
	CloseTryAgain    CloseCode = 1013 // too many claims wait (IANA registry)

	CloseNoServer      CloseCode = 4404 // no binary holds the server-id, or it was reclaimed
	CloseServerInUse   CloseCode = 4409 // the server-id's holder is alive
	CloseTooManyPhones CloseCode = 4429 // the server-id has all its phones
)

// The reasons of the relay's own close codes. Clients may show or compare them, so they
// must not change.
const (
	ReasonShuttingDown  = "shutting down"
	ReasonHeartbeat     = "heartbeat timeout"
	ReasonPhoneBacklog  = "phone backlog full"
	ReasonBinaryBacklog = "binary backlog full"
	ReasonNoServer      = "no server with that id"
	ReasonReclaimed     = "binary reclaimed server-id"
	ReasonServerInUse   = "server-id already claimed"
	ReasonTooManyPhones = "too many phones for server-id"
	ReasonBadEnvelopes  = "too many bad envelopes"
)

// Legal reports whether c may be sent in a close: 1000–1003, 1007–1014 and
// 3000–4999 (RFC 6455 §7.4 with the IANA registry as of 1014). The other codes are
// reserved. Of these, 1005 and 1006 denote a close without a code and an end without a
// close message.
func (c CloseCode) Legal() bool {
	return c >= 1000 && c <= 1003 || c >= 1007 && c <= 1014 || c >= 3000 && c <= 4999
}

// labels has the codes that the protocol names, in the order of their text.
var labels = [...]struct {
	code CloseCode
	text string
}{
	{1000, "1000"},
	{1001, "1001"},
	{1002, "1002"},
	{1006, "1006"},
	{1007, "1007"},
	{1008, "1008"},
	{1009, "1009"},
	{1011, "1011"},
	{1012, "1012"},
	{1013, "1013"},
	{4401, "4401"},
	{4404, "4404"},
	{4408, "4408"},
	{4409, "4409"},
	{4412, "4412"},
	{4421, "4421"},
	{4426, "4426"},
	{4429, "4429"},
}

const labelOther = "other"

// Label returns c as a label value for metrics: its decimal digits if the protocol names
// it, and otherwise "other", also for [CloseNone]. A peer can choose among 2,000 codes and
// must not be able to create as many series. Label does not allocate.
func Label(c CloseCode) string {
	for i := range labels {
		if labels[i].code == c {
			return labels[i].text
		}
	}
	return labelOther
}

// Labels returns every value that [Label] can return, sorted, so that all series can be
// created at the start. The slice belongs to the caller.
func Labels() []string {
	all := make([]string, 0, len(labels)+1)
	for i := range labels {
		all = append(all, labels[i].text)
	}
	return append(all, labelOther)
}
