package daemon

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestBuildTakesWhatIsKnown(t *testing.T) {
	vcs := []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.modified", Value: "true"}}
	clean := []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef0123"}, {Key: "vcs.modified", Value: "false"}}
	for _, tt := range []struct {
		name              string
		version, revision string
		info              debug.BuildInfo
		want              Build
	}{
		{"the linker's word comes first", "v1.2.3", "fff", debug.BuildInfo{Main: debug.Module{Version: "v9"}, Settings: vcs}, Build{Version: "v1.2.3", Revision: "fff"}},
		{"go install of a version", "", "", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, Build{Version: "v1.2.3", Revision: "unknown"}},
		{"go build in a changed checkout", "", "", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: vcs}, Build{Version: "0123456789ab-dirty", Revision: "0123456789abcdef0123-dirty"}},
		{"go build in a clean checkout", "", "", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: clean}, Build{Version: "0123456789ab", Revision: "0123456789abcdef0123"}},
		{"nothing known", "", "", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, Build{Version: "unknown", Revision: "unknown"}},
	} {
		tt.want.GoVersion = runtime.Version()
		if got := describe(tt.version, tt.revision, &tt.info); got != tt.want {
			t.Errorf("%s: got %+v; want %+v", tt.name, got, tt.want)
		}
	}
}
