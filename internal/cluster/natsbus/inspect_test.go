package natsbus

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestInspectNamesEachMissingPart(t *testing.T) {
	user := func(deny ...string) func(*server.Options) {
		return func(o *server.Options) {
			o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{">"}, Deny: deny}}}}
		}
	}
	bucket := func(cfg jetstream.KeyValueConfig) func(*testing.T, string) {
		return func(t *testing.T, url string) {
			nc, err := nats.Connect(url)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Bucket, cfg.Storage = DefaultBucket, jetstream.MemoryStorage
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, err := js.CreateKeyValue(ctx, cfg); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name        string
		set         func(*server.Options)
		user        string
		before      func(t *testing.T, url string)
		want        string // in the error; empty: none
		found, lack string
	}{
		{name: "nothing made yet", found: "the first relay makes the directory", lack: "only 1 NATS servers are known"},
		{name: "one replica", before: bucket(jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute}), found: "NATS 2.", lack: "kept by 1 server and lost with it"},
		{name: "no JetStream", set: func(o *server.Options) { o.JetStream = false }, want: "JetStream is off; turn it on"},
		{name: "a bucket of something else", before: bucket(jetstream.KeyValueConfig{}), want: "its entries cannot expire; delete it"},
		{name: "an unknown user", set: user(), user: "x:y@", want: "NATS refuses the relay"},
		{name: "no messages", set: user("pyrycode.>"), user: "u:p@", want: "allowed to publish and to subscribe to pyrycode.>"},
		{name: "no questions to JetStream", set: user("$JS.>"), user: "u:p@", want: `Permissions Violation for Publish to "$JS.`},
		{name: "a directory that cannot be written", set: user("$KV.>"), user: "u:p@", before: bucket(jetstream.KeyValueConfig{LimitMarkerTTL: time.Minute}), want: "cannot be written", lack: "kept by 1 server"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := single(t, tt.set)
			url := "nats://" + tt.user + strings.TrimPrefix(s.ClientURL(), "nats://")
			if tt.before != nil {
				tt.before(t, url)
			}
			found, missing, err := Inspect(t.Context(), Config{URLs: url})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v; want %q", err, tt.want)
			}
			if got := strings.Join(found, "; "); !strings.Contains(got, tt.found) {
				t.Errorf("found %q; want %q", got, tt.found)
			}
			if got := strings.Join(missing, "; "); !strings.Contains(got, tt.lack) || (got == "") != (tt.lack == "") {
				t.Errorf("missing %q; want %q", got, tt.lack)
			}
		})
	}
	t.Run("no server", func(t *testing.T) {
		if _, _, err := Inspect(t.Context(), Config{URLs: "nats://" + ports(t, 1)[0]}); err == nil || !strings.Contains(err.Error(), "is it running") {
			t.Errorf("error %v", err)
		}
	})
}

func TestServersBefore211AreTooOld(t *testing.T) {
	for version, want := range map[string]bool{"2.10.29": false, "2.11.0": true, "2.12.3": true, "3.0.0-beta": true, "1.99.0": false, "": false} {
		if got := recent(version); got != want {
			t.Errorf("recent(%q) = %v; want %v", version, got, want)
		}
	}
}
