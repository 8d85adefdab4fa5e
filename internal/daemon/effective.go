package daemon

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
