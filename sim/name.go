package sim

import (
	"fmt"
	"strconv"
	"strings"
)

// Names of tasks and points, which mean the same in any run that comes
// there: b1 is an actor, b1.2 its second operation, b1.2/arm1 the task of
// the first timer that one armed, b1.2@unlock1 the point at which it has
// given back its first lock.

//go:norace
func nameKey(name string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(name); i++ {
		h = mix(h ^ uint64(name[i]))
	}
	return h
}

// title returns the task's name.
func (t *Task) title() string {
	if t == nil {
		return "nobody"
	}
	if t.parent == nil {
		return t.Name
	}
	return t.parent.site(t.born.op) + "/" + t.born.kind.String() + strconv.Itoa(int(t.born.occ))
}

// site returns the task's name with the operation, if it has any.
func (t *Task) site(op int32) string {
	if op == 0 {
		return t.title()
	}
	return t.title() + "." + strconv.Itoa(int(op))
}

// pointName returns the name of a point of the task.
func (t *Task) pointName(p point) string {
	return t.site(p.op) + "@" + p.kind.String() + strconv.Itoa(int(p.occ))
}

// taskKey turns a task's name into its key.
func taskKey(name string) (uint64, bool) {
	first, rest, nested := strings.Cut(name, "/")
	actor, op, ok := cutOp(first)
	if !ok || actor == "" || !nested && op != 0 {
		return 0, false
	}
	key := nameKey(actor)
	for nested {
		first, rest, nested = strings.Cut(rest, "/")
		p, ok := parseKind(first)
		if !ok {
			return 0, false
		}
		p.op, op = int32(op), 0
		key = p.mix(key) + 1
	}
	return key, true
}

// pointKey turns a point's name into its key.
func pointKey(name string) (uint64, bool) {
	site, at, ok := strings.Cut(name, "@")
	if !ok {
		return 0, false
	}
	p, ok := parseKind(at)
	if !ok {
		return 0, false
	}
	if !strings.Contains(site, "/") {
		actor, op, ok := cutOp(site)
		p.op = int32(op)
		return p.mix(nameKey(actor)), ok
	}
	key, ok := taskKey(site)
	return p.mix(key), ok
}

func cutOp(s string) (string, int, bool) {
	name, op, ok := strings.Cut(s, ".")
	if !ok {
		return s, 0, true
	}
	n, err := strconv.Atoi(op)
	return name, n, err == nil && n > 0
}

// parseKind parses a kind of yield point and its occurrence, as in lock2.
func parseKind(s string) (point, bool) {
	name := strings.TrimRight(s, "0123456789")
	n, err := strconv.ParseUint(s[len(name):], 10, 16)
	if err != nil {
		return point{}, false
	}
	for k := Kind(1); k < kinds; k++ {
		if k.String() == name {
			return point{kind: k, occ: uint16(n)}, true
		}
	}
	return point{}, false
}

func checkNames(l Line) error {
	if l.Begins != "" {
		if _, ok := taskKey(l.Begins); !ok {
			return fmt.Errorf("%q names no task", l.Begins)
		}
	}
	if l.At != "" {
		if _, ok := pointKey(l.At); !ok {
			return fmt.Errorf("%q names no point", l.At)
		}
		if _, ok := taskKey(l.Run); !ok {
			return fmt.Errorf("%q names no task", l.Run)
		}
	}
	return nil
}
