package daemon

import (
	"runtime"
	"runtime/debug"
)

// unknown stands where the build did not say.
const unknown = "unknown"

// Build says what program this is.
type Build struct {
	Version   string // such as v1.2.0 or v1.2.0-3-gab12cd3-dirty
	Revision  string // the commit
	GoVersion string
}

// ReadBuild returns what is known of this build. What the linker was told
// (version, revision; empty if nothing) comes first, then what the go command
// noted in the binary; what neither knows is "unknown".
func ReadBuild(version, revision string) Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = new(debug.BuildInfo)
	}
	return describe(version, revision, info)
}

func describe(version, revision string, info *debug.BuildInfo) Build {
	b := Build{Version: version, Revision: revision, GoVersion: runtime.Version()}
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

// String is the line that the version command prints.
func (b Build) String() string {
	return b.Version + " (revision " + b.Revision + ", " + b.GoVersion + ", " + runtime.GOOS + "/" + runtime.GOARCH + ")"
}
