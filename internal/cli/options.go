package cli

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Option is an option: a field of a struct, with the tags of that field. It is also the
// pflag.Value that sets the field.
//
// The tags, of which only help is necessary:
//
//	name         the name on the command line; by default max-conns for a field MaxConns
//	help         the purpose of the option
//	default      the text of the default; without it the field keeps the value that it has
//	unit         the kind of value, such as time
//	placeholder  the word in place of a value in the help
//	values       every valid value, separated by commas; without it the value is free
//	least, most  the bounds of the value
//	group        the heading in the help
//	common       "true": most users need it, so the short help has it
//	reload       "true": it may change while the process runs
//	secret       "true": it comes from the environment only, and is never shown
//	of           the command that is named in the option's environment variable
//	alias        another name
//	short        another name, of one letter
//	required     "true": it must be given
type Option struct {
	Name, Help, Default     string
	Unit, Placeholder       string
	Values                  []string
	Least, Most             string
	Group, Of, Alias, Short string
	Common, Reload, Secret  bool
	Required                bool
	Env                     string      // its environment variable, if the program has set it
	Invalid                 *ParseError // of the last text, if it was no valid value
	Text                    string      // the last text, if it was no valid value

	field reflect.Value
	given bool // Set was called
}

// Options returns the options of the struct to which target points, in the order of its
// fields. Each option sets its field of target, and has set it to its default. Embedded
// structs are part of the struct. A field without the tag help is no option.
func Options(target any) []*Option { return optionsOf(reflect.ValueOf(target).Elem()) }

func optionsOf(v reflect.Value) (all []*Option) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			all = append(all, optionsOf(v.Field(i))...)
		} else if f.Tag.Get("help") != "" {
			all = append(all, optionOf(f, v.Field(i)))
		}
	}
	return all
}

func optionOf(f reflect.StructField, field reflect.Value) *Option {
	tag := f.Tag.Get
	o := &Option{
		Name: cmp.Or(tag("name"), nameOf(f.Name)), Help: tag("help"),
		Unit: tag("unit"), Placeholder: tag("placeholder"), Least: tag("least"), Most: tag("most"),
		Group: tag("group"), Of: tag("of"), Alias: tag("alias"), Short: tag("short"),
		Common: tag("common") != "", Reload: tag("reload") != "", Secret: tag("secret") != "", Required: tag("required") != "",
		field: field,
	}
	if values := tag("values"); values != "" {
		o.Values = strings.Split(values, ",")
	}
	if text, ok := f.Tag.Lookup("default"); ok {
		if err := SetText(field, text); err != nil {
			panic(fmt.Sprintf("default of --%s: %v", o.Name, err)) // no input causes this
		}
	}
	o.Default = o.String()
	return o
}

// wordEnd is the place between two words of the name of a field: MaxConns, TLSCert.
var wordEnd = regexp.MustCompile(`([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])`)

// nameOf returns max-conns for MaxConns.
func nameOf(field string) string {
	return strings.ToLower(wordEnd.ReplaceAllString(field, "$1$3-$2$4"))
}

// String returns the value as text.
func (o *Option) String() string {
	if o == nil || !o.field.IsValid() {
		return "" // pflag calls it with the zero value
	}
	return TextOf(o.field.Interface())
}

// Type returns the word in place of a value in the help.
func (o *Option) Type() string {
	kind, _, _ := strings.Cut(o.Unit, ",")
	switch {
	case o.IsBool():
		return "bool" // pflag's help then shows no value
	case o.Values != nil:
		return strings.Join(o.Values, "|")
	}
	if kind == "" {
		kind = strings.TrimPrefix(strings.ToLower(o.field.Type().Name()), "[]")
	}
	return cmp.Or(o.Placeholder, strings.ToUpper(strings.ReplaceAll(kind, " ", "-")))
}

// IsBool reports whether the option is true or false.
func (o *Option) IsBool() bool { return o.field.Kind() == reflect.Bool }

// Set sets the field. A second text replaces the first, or is added to a list. A text that
// is no valid value is no error to pflag, which stops at the first error: it is noted in
// Invalid.
func (o *Option) Set(text string) error {
	value := reflect.New(o.field.Type()).Elem()
	o.Text, o.Invalid = text, o.parse(value, text)
	if o.Invalid != nil {
		return nil
	}
	if value.Kind() == reflect.Slice && o.given {
		value = reflect.AppendSlice(o.field, value)
	}
	o.field.Set(value)
	o.given = true
	return nil
}

// parse sets value to the value of text, or returns what is wrong with text.
func (o *Option) parse(value reflect.Value, text string) *ParseError {
	if err := SetText(value, text); err != nil {
		return err
	}
	items, ok := value.Interface().([]string)
	if !ok {
		items = []string{text}
	}
	for _, item := range items {
		if o.Values == nil || slices.Contains(o.Values, item) || text == o.Default {
			continue
		}
		last := len(o.Values) - 1
		err := &ParseError{Rule: "must be " + strings.Join(o.Values[:last], ", ") + " or " + o.Values[last], Fix: "or leave it out"}
		if near := Nearest(item, slices.Values(o.Values), 0); near != "" {
			err.Fix = "did you mean " + near + "?"
		} else if o.Default != "" {
			err.Fix = "the default is " + o.Default
		}
		return err
	}
	return nil
}

// ParseError is the error for a text that is no value of its type.
type ParseError struct {
	Rule string // the form that the text must have
	Fix  string // the remedy
}

// Error returns the rule and the remedy.
func (e *ParseError) Error() string { return e.Rule + "; " + e.Fix }

// SetText sets a field of a type that an option can have to the value of text.
func SetText(field reflect.Value, text string) *ParseError {
	var err error
	rule, example := "must be a whole number", "1000"
	switch p := field.Addr().Interface().(type) {
	case *string:
		*p = text
	case *[]string:
		if *p = nil; text != "" {
			*p = strings.Split(text, ",")
		}
	case *bool:
		if *p = text == "true"; text != "true" && text != "false" {
			return &ParseError{"must be true or false", "without a value the flag means true"}
		}
	case *int:
		*p, err = strconv.Atoi(text)
	case *uint64:
		*p, err = strconv.ParseUint(text, 10, 64)
	case *float64:
		rule, example = "must be a number", "20 or 0.5"
		*p, err = strconv.ParseFloat(text, 64)
	case *time.Duration:
		rule, example = "must be a time with its unit", "30s, 1m30s or 500ms"
		*p, err = time.ParseDuration(text)
	case *Size:
		rule, example = "must be a size in bytes, KiB, MiB or GiB", "262144 or 256KiB"
		*p, err = parseSize(text)
	default:
		panic("no option is a " + field.Type().String())
	}
	if err != nil {
		return &ParseError{rule, "for example " + example}
	}
	return nil
}

// TextOf returns the text from which SetText sets value.
func TextOf(value any) string {
	switch x := value.(type) {
	case []string:
		return strings.Join(x, ",")
	case time.Duration:
		return shortDuration(x)
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	}
	return fmt.Sprint(value)
}

// shortDuration returns 1h for 1h0m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
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

func parseSize(text string) (Size, error) {
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
	return 0, strconv.ErrSyntax
}

// String returns the shortest text from which SetText sets s.
func (s Size) String() string {
	for _, u := range sizeUnits[:3] {
		if s != 0 && int(s)%u.bytes == 0 {
			return strconv.Itoa(int(s)/u.bytes) + u.suffix
		}
	}
	return strconv.Itoa(int(s)) + "B"
}
