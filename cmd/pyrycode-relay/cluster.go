//go:build cluster

package main

// The program with the build tag cluster can be part of a cluster. Without the tag it has
// neither etcd nor gRPC, and a third of the size.
import _ "github.com/pyrycode/pyrycode-relay/internal/cluster/etcdprovider"
