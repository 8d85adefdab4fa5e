package engine

// Goals are the coverage goals of a world: the situations that a sweep must cover. A world
// declares each in the variable that stands for it:
//
//	var goals engine.Goals
//	var sawFull = goals.Add("a slot is full")
type Goals struct{ texts []string }

// Add adds a goal. It returns its number, for Run.Sometimes.
func (g *Goals) Add(text string) int {
	g.texts = append(g.texts, text)
	return len(g.texts) - 1
}

// Texts returns the texts of all goals, for World.CoverageGoals.
func (g *Goals) Texts() []string { return g.texts }
