package config

import (
	"reflect"
	"strings"
)

// Setting is one option with its value in a configuration.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"` // in the form that the option takes; withheld if it is secret
	From   string `json:"from"`  // from [Origin.String]
	Reload bool   `json:"reload"`
	Secret bool   `json:"secret"`
}

// Settings returns every option of c, in the order of [Options]. Values of secret
// options are withheld.
func (c Config) Settings(from Origins) []Setting {
	v := reflect.ValueOf(c)
	options := Options()
	all := make([]Setting, len(options))
	for i, o := range options {
		all[i] = Setting{Name: o.Name, Value: display(v.Field(i).Interface()), From: from[o.Name].String(), Reload: o.Reload, Secret: o.Secret}
		if o.Secret && all[i].Value != "" {
			all[i].Value = Withheld
		}
	}
	return all
}

// Merge returns c with the values of asked for the options that may change while the
// process runs. changed lists the options that differ and may change, fixed those
// that differ and may not. Their form is grace=1m; the value of a secret is withheld.
func (c Config) Merge(asked Config) (next Config, changed, fixed []string) {
	next = c
	from, to := reflect.ValueOf(asked), reflect.ValueOf(&next).Elem()
	for i, o := range Options() {
		a, b := display(from.Field(i).Interface()), display(to.Field(i).Interface())
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

// quoteIfOdd returns s, quoted if it is empty, contains blanks, or does not print.
func quoteIfOdd(s string) string {
	if q := quote(s); s == "" || strings.ContainsAny(s, " \t") || q != `"`+s+`"` {
		return q
	}
	return s
}
