// Package access decides which peers may use the relay.
//
// A [Policy] is the relay.Access of a process. It decides from a [Book], which is the
// content of the file of --access-file, or asks a [Verifier].
//
// Begin with policy.go. book.go has the format of the file, and edit.go changes such a
// file. The package imports the relay for its interface, and neither the configuration
// nor the process.
package access
