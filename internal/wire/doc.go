// Package wire encodes and decodes the messages between the relay and its two kinds of
// peers: bytes in, values or bytes out.
//
// A binary (the user's daemon) holds a server-id. Phones (its clients) join that
// server-id. A phone sends and receives bare frames. A frame is one JSON text, and the
// relay never changes its bytes. A binary has one connection for all its phones.
// Therefore each of its messages is an envelope: a JSON object that names a phone by its
// conn-id and carries a frame, a close code, or both.
//
//	phone  <-- frame -->  relay  <-- {"conn_id":"c-…","frame":frame} -->  binary
//
// Frames and envelopes travel as WebSocket messages. On the wire a message is one or more
// fragments, and control messages may come between them. (RFC 6455 calls fragments
// frames, a word that has another meaning here.) The layers, from below:
//
//   - an [Assembler] turns the bytes of one connection into messages, and the Append
//     functions turn messages into bytes;
//   - [ParseEnvelope] parses a binary's message, and [AppendEnvelopePrefix] encodes the
//     envelope for a phone's frame;
//   - [ValidFrame] reports whether the relay may forward a phone's message;
//   - [CloseCode] is the reason for which either side ends the connection.
//
// The connection begins with one HTTP request. [ParseBinaryHello] and [ParsePhoneHello]
// parse its headers.
//
// The package accepts every form of a message that the protocol allows, and produces only
// one form. It uses no sockets, clocks or locks, and starts no goroutines. Its only state
// between calls is a pool of free buffers.
package wire
