package relay

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The life of a slot as a table: from each state each step leads somewhere.
// A test proves it against the registry, and draws it for docs/design.md.

// lifeStates are what a server-id can be in; no slot at all is free. The
// others are held, in grace and free once the drain has begun.
var lifeStates = []string{"free", "held", "in grace", "closing", "closing in grace", "drained"}

// lifeSteps are what can happen to it, each as a story of [book.step]: a and
// the phones 1 and 2 are in the slot where somebody is, at a cap of 3. r is
// a rival, x somebody who has no part in it.
var lifeSteps = []struct{ name, story string }{
	{"claim", "claim r"},
	{"takeover from the holder", "takeover a r"},
	{"takeover from somebody else", "takeover x r"},
	{"release by the holder", "release a"},
	{"release by somebody else", "release x"},
	{"join of a phone", "join 3"},
	{"leave of a phone", "leave 1"},
	{"leave of a stranger", "leave 9"},
	{"end of the grace", "wait 30s"},
	{"late end of an old grace", "late"},
	{"drain", "drain"},
	{"revoke", "revoke s1"},
}

// lifeRow is what one step does from some states.
type lifeRow struct {
	from   []string
	step   string
	answer string // of the registry
	to     string // empty: as it was
	holder string // after it
	phones string // after it
	closes string // what the caller closes, and with which code
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

	{from: []string{"free"}, step: "takeover from somebody else", answer: "vacant []"},
	{from: []string{"held"}, step: "takeover from somebody else", answer: "held a[]", holder: "a", phones: "1 2"},
	{from: []string{"in grace"}, step: "takeover from somebody else", answer: "vacant []", phones: "1 2"},
	{from: []string{"closing"}, step: "takeover from somebody else", answer: "refused []", holder: "a", phones: "1 2"},
	{from: []string{"closing in grace"}, step: "takeover from somebody else", answer: "refused []", phones: "1 2"},
	{from: []string{"drained"}, step: "takeover from somebody else", answer: "refused []"},

	{from: []string{"held"}, step: "release by the holder", answer: "true", to: "in grace", phones: "1 2"},
	{from: []string{"closing"}, step: "release by the holder", answer: "true", to: "closing in grace", phones: "1 2"},
	{from: []string{"in grace", "closing in grace"}, step: "release by the holder", answer: "false", phones: "1 2"},
	{from: []string{"free", "drained"}, step: "release by the holder", answer: "false"},

	{from: []string{"held", "closing"}, step: "release by somebody else", answer: "false", holder: "a", phones: "1 2"},
	{from: []string{"in grace", "closing in grace"}, step: "release by somebody else", answer: "false", phones: "1 2"},
	{from: []string{"free", "drained"}, step: "release by somebody else", answer: "false"},

	{from: []string{"free"}, step: "join of a phone", answer: "no server"},
	{from: []string{"held"}, step: "join of a phone", answer: "joined a", holder: "a", phones: "1 2 3"},
	{from: []string{"in grace"}, step: "join of a phone", answer: "joined", phones: "1 2 3"},
	{from: []string{"closing"}, step: "join of a phone", answer: "refused", holder: "a", phones: "1 2"},
	{from: []string{"closing in grace"}, step: "join of a phone", answer: "refused", phones: "1 2"},
	{from: []string{"drained"}, step: "join of a phone", answer: "refused"},

	{from: []string{"held", "closing"}, step: "leave of a phone", answer: "true", holder: "a", phones: "2"},
	{from: []string{"in grace", "closing in grace"}, step: "leave of a phone", answer: "true", phones: "2"},
	{from: []string{"free", "drained"}, step: "leave of a phone", answer: "false"},

	{from: []string{"held", "closing"}, step: "leave of a stranger", answer: "false", holder: "a", phones: "1 2"},
	{from: []string{"in grace", "closing in grace"}, step: "leave of a stranger", answer: "false", phones: "1 2"},
	{from: []string{"free", "drained"}, step: "leave of a stranger", answer: "false"},

	{from: []string{"held", "closing"}, step: "end of the grace", holder: "a", phones: "1 2"},
	{from: []string{"in grace"}, step: "end of the grace", to: "free", closes: "its phones 1000"},
	{from: []string{"closing in grace"}, step: "end of the grace", to: "drained", closes: "its phones 1000"},
	{from: []string{"free", "drained"}, step: "end of the grace"},

	{from: []string{"held", "closing"}, step: "late end of an old grace", answer: "true", holder: "a", phones: "1 2"},
	{from: []string{"in grace", "closing in grace"}, step: "late end of an old grace", answer: "true", phones: "1 2"},
	{from: []string{"free", "drained"}, step: "late end of an old grace", answer: "true"},

	{from: []string{"free", "drained"}, step: "drain", answer: "[] []", to: "drained"},
	{from: []string{"held", "closing"}, step: "drain", answer: "[s1] []", to: "closing", holder: "a", phones: "1 2"},
	{from: []string{"in grace", "closing in grace"}, step: "drain", answer: "[s1] []", to: "closing in grace", phones: "1 2"},

	{from: []string{"held"}, step: "revoke", answer: "a[1 2] true", to: "free", closes: "everybody 1012: another node has the server-id"},
	{from: []string{"in grace"}, step: "revoke", answer: "[1 2] true", to: "free", closes: "its phones 1012: another node has the server-id"},
	{from: []string{"closing"}, step: "revoke", answer: "a[1 2] true", to: "drained", closes: "everybody, as the drain says"},
	{from: []string{"closing in grace"}, step: "revoke", answer: "[1 2] true", to: "drained", closes: "its phones, as the drain says"},
	{from: []string{"free", "drained"}, step: "revoke", answer: "[] false"},
}

// lifeStory brings a book into a state. Somebody else has had a grace before,
// whose timer may come late.
func lifeStory(state string) []string {
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

// lifeNow is the state of s1, who holds it and its phones.
func (b *book) lifeNow() (state, holder, phones string) {
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

func TestTheLifeOfASlotIsAsTheTableSays(t *testing.T) {
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
					t.Fatalf("the table has %d rows for it; want 1", len(rows))
				}
				want := rows[0]
				if want.to == "" {
					want.to = state
				}
				b := newBook(3)
				for _, line := range lifeStory(state) {
					b.step(line)
				}
				if got, _, _ := b.lifeNow(); got != state {
					t.Fatalf("it begins %s", got)
				}
				answer := b.step(step.story)
				if step.story == "late" {
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

// lifePicture is the table's changes of state and holder as a drawing that
// GitHub and others make of text.
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
	b.WriteString("    drained --> [*]\n```\n\n| From | Step | The registry answers | To | Closed then |\n|---|---|---|---|---|\n")
	for _, r := range life {
		to := r.to
		if to == "" {
			to = "as it was"
		}
		answer := r.answer
		if r.step == "late end of an old grace" {
			answer = ""
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", strings.Join(r.from, ", "), r.step, answer, to, r.closes)
	}
	return b.String()
}

var update = flag.Bool("update", false, "write the generated parts of the pages anew")

func TestTheDesignPageHasTheLifeOfASlot(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "design.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- life -->\n", "<!-- /life -->\n"
	before, rest, ok := strings.Cut(string(page), begin)
	got, after, closed := strings.Cut(rest, end)
	switch want := lifePicture(); {
	case !ok || !closed:
		t.Fatalf("docs/design.md has no %s… %s", begin, end)
	case got == want:
	case *update:
		if err := os.WriteFile(path, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Error("docs/design.md differs from the table: make docs")
	}
}
