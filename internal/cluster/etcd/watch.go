package etcd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

const (
	// watchTime is how long WatchNodes tries.
	watchTime = 30 * time.Second

	// listPause is the pause after a failed attempt to list the nodes.
	listPause = 250 * time.Millisecond
)

// WatchNodes implements cluster.Directory.
func (d *Directory) WatchNodes(ctx context.Context, f func([]cluster.Entry)) error {
	ctx, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	nodes, revision, err := d.listUntil(ctx)
	if err != nil {
		return fmt.Errorf("watch the nodes in etcd: %w", err)
	}
	report(nodes, f)
	d.tasks.Go(func() {
		for {
			d.watch(nodes, revision, f)
			if nodes, revision, err = d.listUntil(d.ctx); err != nil {
				return // closed
			}
			report(nodes, f)
		}
	})
	return nil
}

// report calls f with all nodes, sorted by key.
func report(nodes map[string]cluster.Entry, f func([]cluster.Entry)) {
	all := make([]cluster.Entry, 0, len(nodes))
	for _, key := range slices.Sorted(maps.Keys(nodes)) {
		all = append(all, nodes[key])
	}
	f(all)
}

// listUntil lists the nodes. It tries until ctx ends, and then returns the cause, with the
// error of the last attempt.
func (d *Directory) listUntil(ctx context.Context) (nodes map[string]cluster.Entry, revision int64, err error) {
	for {
		if nodes, revision, err = d.list(); err == nil {
			return nodes, revision, nil
		}
		select {
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(listPause):
		}
	}
}

// list returns the nodes, and the revision of the whole directory at which it has them.
func (d *Directory) list() (nodes map[string]cluster.Entry, revision int64, err error) {
	ctx, cancel := d.call(callTimeout)
	defer cancel()
	r, err := d.client.Get(ctx, d.prefix+cluster.NodesPrefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, err
	}
	nodes = make(map[string]cluster.Entry, len(r.Kvs))
	for _, kv := range r.Kvs {
		e := d.entry(kv)
		nodes[e.Key] = e
	}
	return nodes, r.Header.Revision, nil
}

// watch applies the changes after revision to nodes, and reports them. It returns when the
// watch has broken: etcd has compacted the revision, the server has lost its leader or does
// not answer, or the directory is closed. Then the nodes must be listed again.
func (d *Directory) watch(nodes map[string]cluster.Entry, revision int64, f func([]cluster.Entry)) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(d.ctx))
	defer cancel()
	for r := range d.client.Watch(ctx, d.prefix+cluster.NodesPrefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
		if r.Err() != nil {
			return
		}
		for _, ev := range r.Events {
			if e := d.entry(ev.Kv); ev.Type == clientv3.EventTypeDelete {
				delete(nodes, e.Key)
			} else {
				nodes[e.Key] = e
			}
		}
		if len(r.Events) > 0 {
			report(nodes, f)
		}
	}
}
