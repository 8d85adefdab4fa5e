package natsbus

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// inspectTimeout bounds each request of Inspect.
const inspectTimeout = 3 * time.Second

// Inspect tests all that a relay needs of the servers in cfg, and leaves nothing on
// them. found lists the results that are right, missing those that are not right but
// let a relay run. The error names the first thing that a relay cannot do, and the
// remedy.
func Inspect(ctx context.Context, cfg Config) (found, missing []string, err error) {
	bucket := cmp.Or(cfg.Bucket, DefaultBucket)
	var refused violations
	opts := append(credentials(cfg), nats.Name("pyrycode-relay check"), nats.Timeout(inspectTimeout), nats.NoReconnect(), nats.ErrorHandler(refused.note))
	nc, err := nats.Connect(cfg.URLs, opts...)
	if err != nil {
		return nil, nil, explain(err)
	}
	defer nc.Close()
	version := nc.ConnectedServerVersion()
	if !recent(version) {
		return nil, nil, fmt.Errorf("the NATS server is version %s, and entries that expire need 2.11 or later", version)
	}
	found = append(found, fmt.Sprintf("NATS %s answers at %s", version, nc.ConnectedAddr()))

	subject := "pyrycode.n.check" + strings.ToLower(rand.Text()) + ".ctl"
	if err := echo(nc, subject); err != nil {
		return found, nil, fmt.Errorf("messages to pyrycode.> do not come back: %w; the relay's user must be allowed to publish and to subscribe to pyrycode.> and to _INBOX.>", refused.because(err))
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return found, nil, err
	}
	ask, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	if _, err := js.AccountInfo(ask); err != nil {
		switch {
		case errors.Is(err, jetstream.ErrJetStreamNotEnabled):
			err = errors.New("JetStream is off; turn it on (nats-server -js, or jetstream {} in its configuration)")
		case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
			err = errors.New("JetStream is off for this account; turn it on there")
		default:
			err = fmt.Errorf("JetStream does not answer: %w; the relay's user must be allowed to publish to $JS.API.> and $KV.%s.>", refused.because(err), bucket)
		}
		return found, nil, err
	}
	ask, cancel = context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	kv, err := js.KeyValue(ask, bucket)
	switch {
	case errors.Is(err, jetstream.ErrBucketNotFound):
		found = append(found, fmt.Sprintf("JetStream is on; the first relay makes the directory (bucket %s)", bucket))
		if n := len(nc.Servers()); n < 3 {
			missing = append(missing, fmt.Sprintf("only %d NATS servers are known: the directory is kept by one and lost with it; use three", n))
		}
		return found, missing, nil
	case err != nil:
		return found, nil, fmt.Errorf("the directory (bucket %s) does not answer: %w; the relay's user must be allowed to publish to $JS.API.> and $KV.%s.>", bucket, refused.because(err), bucket)
	}
	s, err := kv.Status(ask)
	if err != nil {
		return found, nil, fmt.Errorf("the directory (bucket %s): %w", bucket, refused.because(err))
	}
	if limit := s.LimitMarkerTTL(); limit <= 0 {
		return found, nil, fmt.Errorf("the directory (bucket %s) was made by another program: its entries cannot expire; delete it (nats kv del %s), and the first relay makes a new one", bucket, bucket)
	}
	if b, ok := s.(*jetstream.KeyValueBucketStatus); ok {
		n := b.StreamInfo().Config.Replicas
		if n < 3 {
			missing = append(missing, fmt.Sprintf("the directory (bucket %s) is kept by %d server and lost with it; with three servers: nats stream update KV_%s --replicas 3", bucket, n, bucket))
		} else {
			found = append(found, fmt.Sprintf("the directory (bucket %s) is kept by %d servers", bucket, n))
		}
	}
	// This entry expires after a second. The keys of claims have another form.
	ask, cancel = context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	if _, err := kv.Create(ask, "check."+strings.ToLower(rand.Text()), nil, jetstream.KeyTTL(time.Second)); err != nil {
		return found, missing, fmt.Errorf("the directory (bucket %s) cannot be written: %w; the relay's user must be allowed to publish to $KV.%s.>", bucket, refused.because(err), bucket)
	}
	return found, missing, nil
}

// explain returns err with the reason why no server was reached, and the remedy.
func explain(err error) error {
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("NATS refuses the relay: %w; --cluster-creds, or user:password@ in the URL, must belong to one of its users", err)
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("NATS cannot be reached: %w; is it running, and may this machine connect to it?", err)
	}
	return fmt.Errorf("NATS cannot be reached: %w", err)
}

// recent reports whether a server of this version supports entries that expire.
func recent(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	return err1 == nil && err2 == nil && (a > 2 || a == 2 && b >= 11)
}

// echo sends a message to its own subscription and waits for the reply.
func echo(nc *nats.Conn, subject string) error {
	s, err := nc.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond(nil) }) // unanswered, the request fails
	if err != nil {
		return err
	}
	defer func() { _ = s.Unsubscribe() }() // the connection ends anyway
	_, err = nc.Request(subject, nil, inspectTimeout)
	return err
}

// violations keeps the last violation of permissions that the server has reported. The
// server reports it separately; the call that fails only times out.
type violations struct {
	mu   sync.Mutex
	last error
}

func (v *violations) note(_ *nats.Conn, _ *nats.Subscription, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if errors.Is(err, nats.ErrPermissionViolation) {
		v.last = err
	}
}

// because returns the last violation or, if the server has reported none, err.
func (v *violations) because(err error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return cmp.Or(v.last, err)
}
