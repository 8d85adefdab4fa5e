package sim

// reached counts how often a mutant's code was come to. There is none in
// this build; mutants are built with another version of this file.
func reached() int { return 0 }
