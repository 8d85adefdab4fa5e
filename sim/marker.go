package sim

// mutantHits counts how often a mutant's code was come to. There is none in
// this build; mutants are built with another version of this file.
func mutantHits() int { return 0 }
