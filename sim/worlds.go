package sim

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/pyrycode/pyrycode-relay/sim/clusterworld"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/frontworld"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// Worlds returns all worlds in the order in which relaysim lists them.
func Worlds() []engine.World {
	return []engine.World{registryWorld{}, relayworld.World{}, clusterworld.World{}, frontworld.World{}}
}

// WorldNames returns the names of all worlds.
func WorldNames() []string {
	var names []string
	for _, w := range Worlds() {
		names = append(names, w.Name())
	}
	return names
}

// Find returns the world with the given name, which can also be a world with a planted
// failure.
func Find(name string) (engine.World, error) {
	switch name {
	case engine.PlantedUpdate.Name():
		return engine.PlantedUpdate, nil
	case engine.PlantedRace.Name():
		return engine.PlantedRace, nil
	}
	return engine.FindWorld(name, Worlds()...)
}

// Parse parses a plan of one of the worlds that Find returns.
func Parse(text string) (*engine.Plan, error) {
	return engine.ParsePlan(text, append(Worlds(), engine.PlantedUpdate, engine.PlantedRace)...)
}

//go:embed testdata/*.run
var regressionFiles embed.FS

// RegressionRuns returns the plans in testdata by their names.
func RegressionRuns() (map[string]*engine.Plan, error) {
	names, err := fs.Glob(regressionFiles, "testdata/*.run")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	runs := map[string]*engine.Plan{}
	for _, name := range names {
		b, err := regressionFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		r, err := Parse(string(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		runs[strings.TrimSuffix(path.Base(name), ".run")] = r
	}
	return runs, nil
}
