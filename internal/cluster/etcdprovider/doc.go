// Package etcdprovider provides directories in etcd: with a member in this process, as a
// client of the members in other relays, or in an etcd that others run. A program that
// imports the package has it as the provider of package directory.
//
// The package may import the packages below internal/cluster. Begin with [Provider].
package etcdprovider
