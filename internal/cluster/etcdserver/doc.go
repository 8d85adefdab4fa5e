// Package etcdserver runs a server of the cluster's directory, an etcd member, in this
// process. Start with [Start].
//
//	server.go   the member: its settings, its start, its end
//	join.go     how a member without data finds its place: a new directory, or one that exists
//	peers.go    questions to the other members before this one runs
//	membership.go  the list of the members, and the removal of one by an operator
//	datadir.go  the directory of its files
//	zap.go      its log records
//
// # Ports
//
// A relay has one address for the others, host:P. Package transport listens on P for links
// between relays. The member listens on P+1 for the other members and on P+2 for the relays
// that have no member. Both use TLS with the certificates of package clustercert.
//
// # Membership
//
// The members are voters of a raft group. A member that starts without data does one of the
// following, in this order:
//
//   - A directory exists and names this member's address as one that has never started: the
//     member starts with an empty log.
//   - A directory exists and names this address as one that has run: its data are lost. A
//     member without its log must not vote under its old id, because it may have confirmed
//     changes that it no longer has. The old id is removed, and a new one is added.
//   - A directory exists and does not name this address: the member is added. If the
//     directory has as many voters as the configuration names, the new member first removes a
//     voter that its own configuration does not name and that does not run. If all run, the
//     start fails.
//   - No member has a directory: the members named by the configuration create one together.
//
// New members are added as learners, which have no vote, and promoted once they have all data.
// Every change of the membership is decided by a majority of the voters, so a minority that is
// cut off can neither remove nor add members.
//
// # What a member must not lose
//
// If a majority of the members lose their data at the same time while another member keeps
// its data and is not reachable, the majority creates a new directory with the same members.
// The other member's data must then be deleted before it starts. Package etcdserver cannot
// find this out. Without Fsync the data of all machines that lose power are lost; the data of
// processes that end are not.
package etcdserver
