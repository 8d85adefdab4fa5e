package etcd

import (
	"context"
	"errors"
	"io"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// keepAlives sends keep-alives on streams that stay open. A client of etcd that has a user
// requests a new token for every stream, and a token costs the server a write and the hash of a
// password. One stream per keep-alive made both come once a second from each relay.
type keepAlives struct {
	client pb.LeaseClient
	ctx    context.Context // of all streams

	mu   sync.Mutex
	idle *keepAliveStream // nil: none
}

// keepAliveStream is a stream that one call at a time uses.
type keepAliveStream struct {
	pb.Lease_LeaseKeepAliveClient // nil: not opened
	ctx                           context.Context
	cancel                        context.CancelFunc
}

// once renews a lease. If the idle stream has ended, for example because its server was
// restarted or its token is no longer valid, once opens another one. Calls that overlap use
// streams of their own.
func (k *keepAlives) once(ctx context.Context, id clientv3.LeaseID) error {
	k.mu.Lock()
	s := k.idle
	k.idle = nil
	k.mu.Unlock()
	if s != nil {
		if err := k.ask(ctx, s, id); err == nil || ctx.Err() != nil || errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
	}
	s = &keepAliveStream{}
	s.ctx, s.cancel = context.WithCancel(k.ctx)
	return k.ask(ctx, s, id)
}

// ask sends one request on s, and waits for the answer. A stream without an answer is closed
// when ctx ends, so that an answer never counts for a later request.
func (k *keepAlives) ask(ctx context.Context, s *keepAliveStream, id clientv3.LeaseID) error {
	stop := context.AfterFunc(ctx, s.cancel)
	r, err := s.exchange(k.client, id)
	if !stop() || err != nil {
		s.cancel()
		return failure(ctx, err)
	}
	k.keep(s)
	if r.TTL <= 0 {
		return rpctypes.ErrLeaseNotFound
	}
	return nil
}

func (s *keepAliveStream) exchange(client pb.LeaseClient, id clientv3.LeaseID) (r *pb.LeaseKeepAliveResponse, err error) {
	if s.Lease_LeaseKeepAliveClient == nil {
		if s.Lease_LeaseKeepAliveClient, err = client.LeaseKeepAlive(s.ctx); err != nil {
			return nil, err
		}
	}
	if err := s.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return s.Recv() // after io.EOF it has the reason
}

// failure returns why a call has failed: its time is over, or err.
func failure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return rpctypes.Error(err)
}

// keep makes s the idle stream, or closes it if another call was faster.
func (k *keepAlives) keep(s *keepAliveStream) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.idle != nil {
		s.cancel()
		return
	}
	k.idle = s
}
