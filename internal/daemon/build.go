package daemon

import (
	"runtime"
	"runtime/debug"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
)

// unknown stands for a property that the build did not set.
const unknown = "unknown"

// Build is the version of a program.
type Build struct {
	Version   string // such as v1.2.0 or v1.2.0-3-gab12cd3-dirty
	Revision  string // the commit
	GoVersion string
	Cluster   bool // the program can be part of a cluster
}

// ReadBuild returns the Build of this program. version and revision, which the linker
// sets, come first if they are not empty. Then come the settings that the go command
// records in the program. A property that neither has is "unknown".
func ReadBuild(version, revision string) Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = new(debug.BuildInfo)
	}
	return describe(version, revision, info)
}

func describe(version, revision string, info *debug.BuildInfo) Build {
	b := Build{Version: version, Revision: revision, GoVersion: runtime.Version(), Cluster: directory.Installed() != nil}
	noted, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			noted = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if b.Revision == "" {
		b.Revision = unknown
		if noted != "" {
			b.Revision = noted + dirty
		}
	}
	if b.Version == "" {
		switch {
		case info.Main.Version != "" && info.Main.Version != "(devel)":
			b.Version = info.Main.Version
		case noted != "":
			b.Version = noted[:min(12, len(noted))] + dirty
		default:
			b.Version = unknown
		}
	}
	return b
}

// String returns the line that the command version prints.
func (b Build) String() string {
	cluster := ""
	if b.Cluster {
		cluster = ", with clusters"
	}
	return b.Version + " (revision " + b.Revision + ", " + b.GoVersion + ", " + runtime.GOOS + "/" + runtime.GOARCH + cluster + ")"
}
