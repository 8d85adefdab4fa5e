// Package bench has the references of the relay's benchmarks: a relay in its simplest form
// (Baseline) and a byte copier (Splice).
package bench
