package natsbus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

// call returns the context of one call of the directory.
func call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callTimeout)
}

// inFlight is the error code of a server while its replicas have not agreed on an
// earlier write to the same key. The expected revision is not the newest one then
// either.
const inFlight jetstream.ErrorCode = 10164

// conflict returns cluster.ErrConflict if err means a conflict, and otherwise err.
func conflict(err error) error {
	var api *jetstream.APIError
	if errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == inFlight) {
		return cluster.ErrConflict
	}
	return err
}

// put writes value under key, to expire after ttl, and returns its revision. It fails
// with cluster.ErrConflict unless revision is that of the last message under key, or 0
// if key has no message.
func (c *Conn) put(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (newer uint64, err error) {
	m := nats.NewMsg(c.subject(key))
	m.Data = value
	m.Header.Set(jetstream.MsgTTLHeader, ttl.String())
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(revision, 10))
	ack, err := c.js.PublishMsg(ctx, m)
	if err != nil {
		return 0, conflict(err)
	}
	return ack.Sequence, nil
}

func (c *Conn) subject(key string) string { return "$KV." + c.bucket + "." + key }

// last returns the last message under key. gone is true if that message is a marker of a
// removed key, or if key has no message. last asks the leader. The library's Get asks
// any replica: a replica that is frozen or cut off lets the call run into its timeout,
// and one that lags returns an old entry.
func (c *Conn) last(ctx context.Context, key string) (e cluster.Entry, gone bool, err error) {
	m, err := c.stream.GetLastMsg("KV_"+c.bucket, c.subject(key), nats.Context(ctx))
	if errors.Is(err, nats.ErrMsgNotFound) {
		return e, true, nil
	}
	if err != nil {
		return e, false, err
	}
	gone = m.Header.Get("KV-Operation") != "" || m.Header.Get(jetstream.MarkerReasonHeader) != ""
	return cluster.Entry{Key: key, Value: m.Data, Revision: m.Sequence}, gone, nil
}

// Create implements cluster.Store.
func (c *Conn) Create(key string, value []byte, ttl time.Duration) (uint64, error) {
	ctx, cancel := call()
	defer cancel()
	rev, err := c.put(ctx, key, value, 0, ttl)
	if !errors.Is(err, cluster.ErrConflict) {
		return rev, err
	}
	e, gone, err := c.last(ctx, key)
	switch {
	case err != nil:
		return 0, err // nothing was written
	case !gone || e.Revision == 0:
		return 0, cluster.ErrConflict
	}
	return c.put(ctx, key, value, e.Revision, ttl) // the marker is the last message
}

// Update implements cluster.Store.
func (c *Conn) Update(key string, value []byte, revision uint64, ttl time.Duration) (uint64, error) {
	ctx, cancel := call()
	defer cancel()
	return c.put(ctx, key, value, revision, ttl)
}

// Get implements cluster.Store.
func (c *Conn) Get(key string) (cluster.Entry, error) {
	ctx, cancel := call()
	defer cancel()
	e, gone, err := c.last(ctx, key)
	if err != nil {
		return cluster.Entry{}, err
	}
	if gone {
		return cluster.Entry{}, cluster.ErrNotFound
	}
	return e, nil
}

// Purge implements cluster.Store.
func (c *Conn) Purge(key string, revision uint64) error {
	ctx, cancel := call()
	defer cancel()
	return conflict(c.kv.Purge(ctx, key, jetstream.LastRevision(revision), jetstream.PurgeTTL(markerTTL)))
}

// watchTime is how long Watch tries. After a server was killed and started again, the
// other servers may have to fill it first and to choose a leader.
const watchTime = 30 * time.Second

// Watch implements cluster.Store.
func (c *Conn) Watch(ctx context.Context, f func(cluster.Entry)) error {
	ctx, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	var w jetstream.KeyWatcher
	tried := make(chan error, 1)
	go func() {
		tried <- persist(ctx, func() (err error) {
			w, err = c.kv.WatchAll(context.Background()) // may wait for seconds, and does not observe ctx
			return err
		})
	}()
	select {
	case err := <-tried:
		if err != nil {
			return fmt.Errorf("watch the directory: %w", err)
		}
	case <-ctx.Done(): // Close ends the call that continues
		return fmt.Errorf("watch the directory: %w", context.Cause(ctx))
	}
	c.watch.Store(&w)
	go func() {
		for e := range w.Updates() {
			if e == nil { // the end of the entries that existed at the start
				continue
			}
			entry := cluster.Entry{Key: e.Key(), Revision: e.Revision()}
			if e.Operation() == jetstream.KeyValuePut {
				entry.Value = e.Value()
			}
			f(entry)
		}
	}()
	return nil
}
