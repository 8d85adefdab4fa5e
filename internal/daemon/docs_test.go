package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

func TestTheProtocolNamesEveryLimitAndReason(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		wire.HeaderServer, wire.HeaderVersion, wire.HeaderDevice, wire.HeaderUserAgent,
		wire.ReasonShuttingDown, wire.ReasonHeartbeat, wire.ReasonPhoneBacklog, wire.ReasonBinaryBacklog,
		wire.ReasonNoServer, wire.ReasonReclaimed, wire.ReasonServerInUse, wire.ReasonTooManyPhones,
	}
	for _, o := range Options() {
		switch o.Name {
		case "listen", "metrics-listen", "allowed-origins", "log-format", "log-level": // not limits
		default:
			want = append(want, "--"+o.Name)
		}
	}
	for _, w := range want {
		if !strings.Contains(string(page), "`"+w+"`") {
			t.Errorf("docs/protocol.md does not name `%s`", w)
		}
	}
}
