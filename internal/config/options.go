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

// EnvName is the environment variable of an option: grace is
// PYRYCODE_RELAY_GRACE.
func EnvName(option string) string {
	return EnvPrefix + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(option))
}

// Option is one option of [Config], as its field's tags describe it.
type Option struct {
	Name    string // as on the command line, without the dashes
	Default string
	Least   string // the bounds of its value; empty: it has none
	Most    string
	Unit    string
	Help    string
	Group   string // the heading it stands under
	Reload  bool   // it may change while the process runs
	Secret  bool   // it comes from the environment only, and is shown nowhere
}

// Options is every option of [Config], in the order of its fields.
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
		}
	}
	return all
}

// defaultOf returns the default of the option that f is: by its tag, or the relay's.
func defaultOf(f reflect.StructField) string {
	name := f.Tag.Get("relay")
	if name == "" {
		return f.Tag.Get("default")
	}
	return textOf(reflect.ValueOf(relay.Defaults()).FieldByName(name).Convert(f.Type).Interface())
}

// optionName is max-conns for MaxConns.
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

// Default is what runs when nobody sets anything.
func Default() Config {
	var c Config
	v := reflect.ValueOf(&c).Elem()
	for i, o := range Options() {
		if err := setText(v.Field(i), o.Default); err != nil {
			panic(fmt.Sprintf("default of --%s: %v", o.Name, err)) // a test reads them all
		}
	}
	return c
}

// ParseError says that a text is no value of its type.
type ParseError struct {
	Rule string // what it must be
	Fix  string // an example
}

// Error is the rule and the example.
func (e *ParseError) Error() string { return e.Rule + "; " + e.Fix }

// ParseDuration reads a duration as options are written. The error is a
// [*ParseError].
func ParseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, &ParseError{"must be a time with its unit", "for example 30s, 1m30s or 500ms"}
	}
	return d, nil
}

// ParseInt reads a whole number. The error is a [*ParseError].
func ParseInt(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, &ParseError{"must be a whole number", "for example 1000"}
	}
	return n, nil
}

// ParseBool reads true or false. The error is a [*ParseError].
func ParseBool(text string) (bool, error) {
	switch text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, &ParseError{"must be true or false", "without a value the flag means true"}
}

// ParseFloat reads a number. The error is a [*ParseError].
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

// ParseSize reads a size. The error is a [*ParseError].
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

// String is the shortest text that [ParseSize] reads as s.
func (s Size) String() string {
	for _, u := range sizeUnits[:3] {
		if s != 0 && int(s)%u.bytes == 0 {
			return strconv.Itoa(int(s)/u.bytes) + u.suffix
		}
	}
	return strconv.Itoa(int(s)) + "B"
}
