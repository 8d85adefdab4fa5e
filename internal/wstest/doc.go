// Package wstest is the WebSocket client of this module's tests and of its load
// tools. It has the client's end of a connection (Dialer, Conn), the same for a
// test that ends at the first failure (Peer), bytes that violate the protocol
// (Violations), child processes (Process) and captured output (Log).
//
// The package shares no code with the relay, and imports nothing of this module
// and no WebSocket library. A client that used the parser of internal/wire would
// share that parser's faults, and the tests could not find them. The reader is
// strict: it refuses everything that a relay must not send, although RFC 6455
// allows a part of it.
//
// The simulator has its own peers (package sim). They run inside a simulated
// world, in which the seed decides when each byte moves, so that they cannot block
// in a read as a Conn does.
//
// Begin with Dialer.Dial and Conn.ReadMessage.
package wstest
