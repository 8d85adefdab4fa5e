package relay

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/golden"
)

// This file has the life of a slot as a table: for each state and each step, the
// registry's answer and the next state. One test compares the table with the registry.
// Another writes it into docs/design.md.

// lifeStates are the states of a server-id. It is free if it has no slot. Once the
// drain has begun, held is called closing, in grace is called closing in grace, and
// free is called drained.
var lifeStates = []string{"free", "held", "in grace", "closing", "closing in grace", "drained"}

// lifeSteps are the steps from each state, each with its text for [testRegistry.step].
// A slot that exists has the binary a, unless it is in grace, and the phones 1 and 2.
// It may have 3 phones. r is a rival. x and 9 have no part in the slot.
var lifeSteps = []struct{ name, run string }{
	{"claim", "claim r"},
	{"takeover from the holder", "takeover a r"},
	{"takeover from another binary", "takeover x r"},
	{"release by the holder", "release a"},
	{"release by another binary", "release x"},
	{"join of a phone", "join 3"},
	{"leave of a phone", "leave 1"},
	{"leave of another phone", "leave 9"},
	{"end of the grace", "wait 30s"},
	{"late timer of an old grace", "late"},
	{"drain", "drain"},
	{"revoke", "revoke s1"},
}

// lifeRow is the result of one step from one or more states.
type lifeRow struct {
	from   []string
	step   string
	answer string // of the registry
	to     string // the next state; empty: the same state
	holder string // after the step
	phones string // after the step
	closes string // the connections that the caller closes, and the code
}

var life = []lifeRow{
	{from: []string{"free"}, step: "claim", answer: "claimed []", to: "held", holder: "r"},
	{from: []string{"held"}, step: "claim", answer: "held a[]", holder: "a", phones: "1 2"},
	{from: []string{"in grace"}, step: "claim", answer: "reclaimed [1 2]", to: "held", holder: "r", closes: "its phones 4404"},
	{from: []string{"closing"}, step: "claim", answer: "refused []", holder: "a", phones: "1 2"},
	{from: []string{"closing in grace"}, step: "claim", answer: "refused []", phones: "1 2"},
	{from: []string{"drained"}, step: "claim", answer: "refused []"},

	{from: []string{"free"}, step: "takeover from the holder", answer: "vacant []"},
	{from: []string{"held"}, step: "takeover from the holder", answer: "taken over [1 2]", to: "held", holder: "r", closes: "its phones 4404, the old binary 1011"},
	{from: []string{"in grace"}, step: "takeover from the holder", answer: "vacant []", phones: "1 2"},
	{from: []string{"closing"}, step: "takeover from the holder", answer: "refused []", holder: "a", phones: "1 2"},
	{from: []string{"closing in grace"}, step: "takeover from the holder", answer: "refused []", phones: "1 2"},
	{from: []string{"drained"}, step: "takeover from the holder", answer: "refused []"},

	{from: []string{"free"}, step: "takeover from another binary", answer: "vacant []"},
	{from: []string{"held"}, step: "takeover from another binary", answer: "held a[]", holder: "a", phones: "1 2"},
	{from: []string{"in grace"}, step: "takeover from another binary", answer: "vacant []", phones: "1 2"},
	{from: []string{"closing"}, step: "takeover from another binary", answer: "refused []", holder: "a", phones: "1 2"},
	{from: []string{"closing in grace"}, step: "takeover from another binary", answer: "refused []", phones: "1 2"},
	{from: []string{"drained"}, step: "takeover from another binary", answer: "refused []"},

	{from: []string{"held"}, step: "release by the holder", answer: "true", to: "in grace", phones: "1 2"},
	{from: []string{"closing"}, step: "release by the holder", answer: "true", to: "closing in grace", phones: "1 2"},
	{from: []string{"in grace", "closing in grace"}, step: "release by the holder", answer: "false", phones: "1 2"},
	{from: []string{"free", "drained"}, step: "release by the holder", answer: "false"},

	{from: []string{"held", "closing"}, step: "release by another binary", answer: "false", holder: "a", phones: "1 2"},
	{from: []string{"in grace", "closing in grace"}, step: "release by another binary", answer: "false", phones: "1 2"},
	{from: []string{"free", "drained"}, step: "release by another binary", answer: "false"},

	{from: []string{"free"}, step: "join of a phone", answer: "no server"},
	{from: []string{"held"}, step: "join of a phone", answer: "joined a", holder: "a", phones: "1 2 3"},
	{from: []string{"in grace"}, step: "join of a phone", answer: "joined", phones: "1 2 3"},
	{from: []string{"closing"}, step: "join of a phone", answer: "refused", holder: "a", phones: "1 2"},
	{from: []string{"closing in grace"}, step: "join of a phone", answer: "refused", phones: "1 2"},
	{from: []string{"drained"}, step: "join of a phone", answer: "refused"},

	{from: []string{"held", "closing"}, step: "leave of a phone", answer: "true", holder: "a", phones: "2"},
	{from: []string{"in grace", "closing in grace"}, step: "leave of a phone", answer: "true", phones: "2"},
	{from: []string{"free", "drained"}, step: "leave of a phone", answer: "false"},

	{from: []string{"held", "closing"}, step: "leave of another phone", answer: "false", holder: "a", phones: "1 2"},
	{from: []string{"in grace", "closing in grace"}, step: "leave of another phone", answer: "false", phones: "1 2"},
	{from: []string{"free", "drained"}, step: "leave of another phone", answer: "false"},

	{from: []string{"held", "closing"}, step: "end of the grace", holder: "a", phones: "1 2"},
	{from: []string{"in grace"}, step: "end of the grace", to: "free", closes: "its phones 1000"},
	{from: []string{"closing in grace"}, step: "end of the grace", to: "drained", closes: "its phones 1000"},
	{from: []string{"free", "drained"}, step: "end of the grace"},

	{from: []string{"held", "closing"}, step: "late timer of an old grace", answer: "true", holder: "a", phones: "1 2"},
	{from: []string{"in grace", "closing in grace"}, step: "late timer of an old grace", answer: "true", phones: "1 2"},
	{from: []string{"free", "drained"}, step: "late timer of an old grace", answer: "true"},

	{from: []string{"free", "drained"}, step: "drain", answer: "[] []", to: "drained"},
	{from: []string{"held", "closing"}, step: "drain", answer: "[s1] []", to: "closing", holder: "a", phones: "1 2"},
	{from: []string{"in grace", "closing in grace"}, step: "drain", answer: "[s1] []", to: "closing in grace", phones: "1 2"},

	{from: []string{"held"}, step: "revoke", answer: "a[1 2] true", to: "free", closes: "all its connections 1012: another node has the server-id"},
	{from: []string{"in grace"}, step: "revoke", answer: "[1 2] true", to: "free", closes: "its phones 1012: another node has the server-id"},
	{from: []string{"closing"}, step: "revoke", answer: "a[1 2] true", to: "drained", closes: "all its connections, with the code of the drain"},
	{from: []string{"closing in grace"}, step: "revoke", answer: "[1 2] true", to: "drained", closes: "its phones, with the code of the drain"},
	{from: []string{"free", "drained"}, step: "revoke", answer: "[] false"},
}

// lifeSetup returns the steps that bring a registry into a state. In each of them an
// earlier binary o has had a grace, and the timer of that grace may come late.
func lifeSetup(state string) []string {
	before := []string{"claim o", "release o", "claim a", "join 1", "join 2"}
	switch state {
	case "free":
		return append(before, "release a", "wait 30s")
	case "in grace":
		return append(before, "release a")
	case "closing":
		return append(before, "drain")
	case "closing in grace":
		return append(before, "release a", "drain")
	case "drained":
		return append(before, "release a", "drain", "revoke s1")
	}
	return before
}

// lifeNow returns the state of s1, its holder and its phones.
func (b *testRegistry) lifeNow() (state, holder, phones string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.slots["s1"]
	switch {
	case s == nil && b.draining:
		return "drained", "", ""
	case s == nil:
		return "free", "", ""
	case b.draining && s.grace != nil:
		state = "closing in grace"
	case b.draining:
		state = "closing"
	case s.grace != nil:
		state = "in grace"
	default:
		state = "held"
	}
	return state, s.binary, strings.Trim(fmt.Sprint(sortedByJoinOrder(s.phones)), "[]")
}

func TestASlotLivesAsInTheTable(t *testing.T) {
	for _, state := range lifeStates {
		for _, step := range lifeSteps {
			t.Run(step.name+" when "+state, func(t *testing.T) {
				var rows []lifeRow
				for _, r := range life {
					if r.step == step.name && slices.Contains(r.from, state) {
						rows = append(rows, r)
					}
				}
				if len(rows) != 1 {
					t.Fatalf("the table has %d rows for this step; want 1", len(rows))
				}
				want := rows[0]
				if want.to == "" {
					want.to = state
				}
				b := newTestRegistry(3)
				for _, line := range lifeSetup(state) {
					b.step(line)
				}
				if got, _, _ := b.lifeNow(); got != state {
					t.Fatalf("the slot begins in the state %q; want %q", got, state)
				}
				answer := b.step(step.run)
				if step.run == "late" {
					answer = fmt.Sprint(answer != "0")
				}
				to, holder, phones := b.lifeNow()
				if answer != want.answer || to != want.to || holder != want.holder || phones != want.phones {
					t.Errorf("answer %q, then %s by %q with %q; want %q, %s by %q with %q",
						answer, to, holder, phones, want.answer, want.to, want.holder, want.phones)
				}
				b.sound(t)
			})
		}
	}
}

// lifePicture returns the table as Markdown: a Mermaid diagram of the changes of state
// and holder, and a table of all rows.
func lifePicture() string {
	name := strings.NewReplacer(" ", "_").Replace
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> free\n    state \"in grace\" as in_grace\n    state \"closing in grace\" as closing_in_grace\n")
	for _, r := range life {
		for _, from := range r.from {
			if r.to == "" || r.to == from && (r.holder == "" || r.step == "drain") {
				continue // nothing changes
			}
			fmt.Fprintf(&b, "    %s --> %s: %s", name(from), name(r.to), r.step)
			if r.closes != "" {
				fmt.Fprintf(&b, "<br/>closes %s", r.closes)
			}
			b.WriteByte('\n')
		}
	}
	b.WriteString("    drained --> [*]\n```\n\n| From | Step | Answer of the registry | To | The caller closes |\n|---|---|---|---|---|\n")
	for _, r := range life {
		to := r.to
		if to == "" {
			to = "the same"
		}
		answer := r.answer
		if r.step == "late timer of an old grace" {
			answer = ""
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", strings.Join(r.from, ", "), r.step, answer, to, r.closes)
	}
	return b.String()
}

func TestTheDesignPageHasTheLifeOfASlot(t *testing.T) {
	golden.Section(t, "docs/design.md", "life", lifePicture())
}
