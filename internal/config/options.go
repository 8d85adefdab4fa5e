package config

import (
	"reflect"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// EnvPrefix begins the name of every environment variable of the command.
const EnvPrefix = "PYRYCODE_RELAY_"

// EnvName returns the environment variable of an option: PYRYCODE_RELAY_GRACE for
// grace.
func EnvName(option string) string {
	return EnvPrefix + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(option))
}

// Options returns every option of [Config], in the order of its fields.
func Options() []*cli.Option {
	var c Config
	return c.reset()
}

// reset sets every option of c to its default, and returns them.
func (c *Config) reset() []*cli.Option {
	v, defaults := reflect.ValueOf(c).Elem(), reflect.ValueOf(relay.Defaults())
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("relay"); name != "" {
			v.Field(i).Set(defaults.FieldByName(name).Convert(v.Field(i).Type()))
		}
	}
	return cli.Options(c)
}

// Default returns the configuration with every option at its default.
func Default() (c Config) {
	c.reset()
	return c
}

// Size is the value of an option that is a number of bytes.
type Size = cli.Size
