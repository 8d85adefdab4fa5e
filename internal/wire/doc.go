// Package wire encodes and decodes the messages between the relay and its two kinds of
// peers: bytes in, values or bytes out.
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
// one or more fragments (RFC 6455 calls these frames, a word that has another meaning
// here), with control fragments allowed between them. The layers, from below:
//
//   - an [Assembler] turns the bytes of one connection into messages, the
//     Append functions do the reverse;
//   - [ParseEnvelope] opens a binary's message, [AppendEnvelopePrefix] wraps a
//     phone's;
//   - [ValidFrame] reports whether a phone's message may be passed on;
//   - [CloseCode] is the reason for which either side ends the connection.
//
// The connection begins with one HTTP request. [ParseBinaryHello] and [ParsePhoneHello]
// parse its headers.
//
// The package accepts every form that the protocol allows, and always produces the same
// form. It uses no sockets, clocks or locks, starts no goroutines, and keeps nothing
// between calls except a pool of free buffers.
package wire
