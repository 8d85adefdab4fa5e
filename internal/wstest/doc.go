// Package wstest is the WebSocket client of this module's tests and load tools. It has
// the client's end of a connection (Dialer, Conn), a form of it that ends a test at the
// first failure (Peer), bytes that violate the protocol (Violations), child processes
// (Process), free ports for them (FreeAddress), and captured output (Log).
//
// The package shares no code with the relay, and imports nothing of this module
// and no WebSocket library. A client that used the parser of internal/wire would
// share that parser's faults, so that the tests could not find them. The reader is
// strict: it refuses every frame that a relay must not send, even if RFC 6455 allows it.
//
// The simulator has its own peers (package relayworld). They run inside a simulated world
// in which the seed decides when each byte moves. Therefore they cannot block in a read
// as a Conn does.
//
// Begin with Dialer.Dial and Conn.ReadMessage.
package wstest
