// Package bench holds what the relay is measured against: a relay written
// the plain way, and a bare copier of bytes. Nothing but benchmarks uses it.
package bench
