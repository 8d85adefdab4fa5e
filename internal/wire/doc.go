// Package wire is what crosses the wire between the relay and its two kinds of
// peer, and nothing else: bytes in, values or bytes out.
//
// A binary (the user's daemon) holds a server-id; phones (its clients) join
// that server-id. A phone sends and gets bare frames: a frame is one JSON text
// and its bytes are never changed. A binary has one connection for all its
// phones, so each of its messages is an envelope: a JSON object that names a
// phone by its conn-id and carries a frame, a close code, or both.
//
//	phone  <-- frame -->  relay  <-- {"conn_id":"c-…","frame":frame} -->  binary
//
// Frames and envelopes travel as WebSocket messages. On the wire a message is
// one or more fragments (RFC 6455 calls these frames; that word is taken here),
// with control fragments allowed between them. Layer by layer, from below:
//
//   - an [Assembler] turns the bytes of one connection into messages, the
//     Append functions do the reverse;
//   - [ParseEnvelope] opens a binary's message, [AppendEnvelopePrefix] wraps a
//     phone's;
//   - [ValidFrame] says whether a phone's message may be passed on;
//   - [CloseCode] is how either side says why it ends.
//
// Before any of that there is one HTTP request, of which only the headers
// matter: [ParseBinaryHello] and [ParsePhoneHello].
//
// The package is tolerant of what arrives and exact in what it sends. It is
// pure: it knows no sockets, no clocks and no locks, starts no goroutines, and
// keeps nothing between calls but a pool of spent buffers.
package wire
