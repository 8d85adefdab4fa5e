// Package clustertest is for tests of code that uses internal/cluster. It has
// a directory and a bus in memory, for nodes of one process, and a suite of
// tests for other implementations of [cluster.Directory], and a network.
//
// Only tests import it. It may import internal/cluster. Begin with [Memory].
package clustertest
