package config

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// EnvPrefix begins the name of every environment variable of the command.
const EnvPrefix = "PYRYCODE_RELAY_"

// EnvName returns the environment variable of an option: PYRYCODE_RELAY_GRACE for
// grace.
func EnvName(option string) string {
	return EnvPrefix + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(option))
}

// Option is one option of [Config], from the tags of its field.
type Option struct {
	Name    string // as on the command line, without the dashes
	Default string
	Least   string // the bounds of its value; empty: it has none
	Most    string
	Unit    string
	Help    string
	Group   string // the heading in the help
	Reload  bool   // it may change while the process runs
	Secret  bool   // it comes from the environment only, and is never shown

	Values []string // every valid value; nil: the value is free
	Common bool     // most operators need it, so the short help has it
}

// Options returns every option of [Config], in the order of its fields.
func Options() []Option { return optionsOf(reflect.TypeFor[Config]()) }

func optionsOf(t reflect.Type) []Option {
	all := make([]Option, t.NumField())
	for i := range all {
		f := t.Field(i)
		all[i] = Option{
			Name:    cmp.Or(f.Tag.Get("name"), optionName(f.Name)),
			Default: defaultOf(f),
			Least:   f.Tag.Get("least"),
			Most:    f.Tag.Get("most"),
			Unit:    f.Tag.Get("unit"),
			Help:    f.Tag.Get("help"),
			Group:   f.Tag.Get("group"),
			Reload:  f.Tag.Get("reload") == "true",
			Secret:  f.Tag.Get("secret") == "true",
			Common:  f.Tag.Get("common") == "true",
		}
		if values := f.Tag.Get("values"); values != "" {
			all[i].Values = strings.Split(values, ",")
		}
	}
	return all
}

// defaultOf returns the default of the option of field f: from its tag, or from
// relay.Defaults.
func defaultOf(f reflect.StructField) string {
	name := f.Tag.Get("relay")
	if name == "" {
		return f.Tag.Get("default")
	}
	return textOf(reflect.ValueOf(relay.Defaults()).FieldByName(name).Convert(f.Type).Interface())
}

// optionName returns max-conns for MaxConns.
func optionName(field string) string {
	var b strings.Builder
	for i, r := range field {
		if i > 0 && 'A' <= r && r <= 'Z' {
			b.WriteByte('-')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// Default returns the configuration with every option at its default.
func Default() Config {
	var c Config
	v := reflect.ValueOf(&c).Elem()
	for i, o := range Options() {
		if err := setText(v.Field(i), o.Default); err != nil {
			panic(fmt.Sprintf("default of --%s: %v", o.Name, err)) // a test parses them all
		}
	}
	return c
}

// ParseError is the error for a text that is no value of its type.
type ParseError struct {
	Rule string // the form that the text must have
	Fix  string // an example
}

// Error returns the rule and the example.
func (e *ParseError) Error() string { return e.Rule + "; " + e.Fix }

// ParseDuration parses the text of an option that is a duration. The error is a
// [*ParseError].
func ParseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, &ParseError{"must be a time with its unit", "for example 30s, 1m30s or 500ms"}
	}
	return d, nil
}

// ParseInt parses a whole number. The error is a [*ParseError].
func ParseInt(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, &ParseError{"must be a whole number", "for example 1000"}
	}
	return n, nil
}

// ParseBool parses true or false. The error is a [*ParseError].
func ParseBool(text string) (bool, error) {
	switch text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, &ParseError{"must be true or false", "without a value the flag means true"}
}

// ParseFloat parses a number. The error is a [*ParseError].
func ParseFloat(text string) (float64, error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, &ParseError{"must be a number", "for example 20 or 0.5"}
	}
	return f, nil
}

// setText sets one field of Config from its text.
func setText(v reflect.Value, text string) (err error) {
	switch p := v.Addr().Interface().(type) {
	case *string:
		*p = text
	case *[]string:
		if text != "" {
			*p = strings.Split(text, ",")
		}
	case *bool:
		*p, err = ParseBool(text)
	case *int:
		*p, err = ParseInt(text)
	case *float64:
		*p, err = ParseFloat(text)
	case *time.Duration:
		*p, err = ParseDuration(text)
	case *Size:
		*p, err = ParseSize(text)
	default:
		err = fmt.Errorf("no option is a %s", v.Type())
	}
	return err
}

// Size is a number of bytes, written as 262144, 256KiB or 4MiB.
type Size int

var sizeUnits = [...]struct {
	suffix string
	bytes  int
}{
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"B", 1},
	{"", 1},
}

// ParseSize parses a size. The error is a [*ParseError].
func ParseSize(text string) (Size, error) {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > math.MaxInt/int64(u.bytes) || n < math.MinInt/int64(u.bytes) {
			break
		}
		return Size(int(n) * u.bytes), nil
	}
	return 0, &ParseError{"must be a size in bytes, KiB, MiB or GiB", "for example 262144 or 256KiB"}
}

// String returns the shortest text that [ParseSize] parses as s.
func (s Size) String() string {
	for _, u := range sizeUnits[:3] {
		if s != 0 && int(s)%u.bytes == 0 {
			return strconv.Itoa(int(s)/u.bytes) + u.suffix
		}
	}
	return strconv.Itoa(int(s)) + "B"
}
