package config

import (
	"reflect"
	"strings"
)

// Setting is one option with the value that runs.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"` // as it would be given; a secret's is withheld
	From   string `json:"from"`  // as [Origin.String] has it
	Reload bool   `json:"reload"`
	Secret bool   `json:"secret"`
}

// Settings is every option of c, in their order. There is no secret in it.
func (c Config) Settings(from Origins) []Setting {
	v := reflect.ValueOf(c)
	options := Options()
	all := make([]Setting, len(options))
	for i, o := range options {
		all[i] = Setting{Name: o.Name, Value: textOf(v.Field(i).Interface()), From: from[o.Name].String(), Reload: o.Reload, Secret: o.Secret}
		if o.Secret && all[i].Value != "" {
			all[i].Value = Withheld
		}
	}
	return all
}

// textOf is a value as setText reads it.
func textOf(value any) string {
	if list, ok := value.([]string); ok {
		return strings.Join(list, ",")
	}
	return display(value)
}

// Merge returns c with the values of asked of the options that may change while the
// process runs. changed and fixed are the options that differ and may change, or may
// not; each such as grace=1m, secrets without their value.
func (c Config) Merge(asked Config) (next Config, changed, fixed []string) {
	next = c
	from, to := reflect.ValueOf(asked), reflect.ValueOf(&next).Elem()
	for i, o := range Options() {
		a, b := textOf(from.Field(i).Interface()), textOf(to.Field(i).Interface())
		if a == b {
			continue
		}
		if o.Secret {
			a = Withheld
		}
		if !o.Reload {
			fixed = append(fixed, o.Name+"="+quoteIfOdd(a))
			continue
		}
		to.Field(i).Set(from.Field(i))
		changed = append(changed, o.Name+"="+quoteIfOdd(a))
	}
	return next, changed, fixed
}

// quoteIfOdd is a value as it can stand in a line of others.
func quoteIfOdd(s string) string {
	if q := quote(s); s == "" || strings.ContainsAny(s, " \t") || q != `"`+s+`"` {
		return q
	}
	return s
}
