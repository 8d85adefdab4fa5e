// Package etcd is the directory of a cluster in etcd: a [cluster.Directory] with etcd's
// client.
//
// A session is a lease of etcd. Claims are transactions. The package may import
// internal/cluster. Begin with [Dial].
package etcd
