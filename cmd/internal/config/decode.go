package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// A decoder walks one file and collects what is wrong with it.
type decoder struct {
	file      string
	env       func(name string) (string, bool)
	checkUIDL func(template string) error // tells what is wrong with it
	lines     map[string]int              // of each key path that the file has
	faults    Faults
	warnings  []Fault
}

// A value is a node of the file, and the path of keys that leads to it.
type value struct {
	*decoder
	path string
	node *yaml.Node
}

// A field is a key of a mapping, and what reads its value.
type field struct {
	key  string
	read func(value)
}

// parse decodes text and checks everything but the files that it names.
func parse(file string, text []byte, env func(string) (string, bool), checkUIDL func(string) error) (*Config, *decoder) {
	d := &decoder{file: file, env: env, checkUIDL: checkUIDL, lines: map[string]int{}}
	c := Default()
	if root, ok := d.document(text); ok {
		value{d, "", root}.mapping(c.fields()...)
		if !d.blamed("") {
			c.check(d)
		}
	}
	return &c, d
}

// document returns the root of the one YAML document in text.
func (d *decoder) document(text []byte) (*yaml.Node, bool) {
	y := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := y.Decode(&doc); errors.Is(err, io.EOF) {
		d.faultAt(0, "", "the file is empty")
		return nil, false
	} else if err != nil {
		d.syntax(text, err)
		return nil, false
	}
	switch err := y.Decode(&second); {
	case err == nil:
		d.faultAt(second.Line, "", "a second document starts here: a configuration is one document")
	case !errors.Is(err, io.EOF):
		d.syntax(text, err)
	}
	if len(doc.Content) == 0 {
		d.faultAt(0, "", "the file is empty")
		return nil, false
	}
	return doc.Content[0], true
}

func (d *decoder) faultAt(line int, key, format string, args ...any) {
	d.faults = append(d.faults, Fault{d.file, line, key, fmt.Sprintf(format, args...)})
}

// fault reports what is wrong with the value at path, or with its absence.
func (d *decoder) fault(path, format string, args ...any) {
	d.faultAt(d.line(path), path, format, args...)
}

func (d *decoder) warn(path, format string, args ...any) {
	d.warnings = append(d.warnings, Fault{d.file, d.line(path), path, fmt.Sprintf(format, args...)})
}

func (v value) fault(format string, args ...any) {
	v.faultAt(v.node.Line, v.path, format, args...)
}

// blamed tells whether the value at path is reported already.
func (d *decoder) blamed(path string) bool {
	return slices.ContainsFunc(d.faults, func(f Fault) bool { return f.Key == path })
}

// has tells whether the file sets the key at path.
func (d *decoder) has(path string) bool {
	_, ok := d.lines[path]
	return ok
}

// line is where path stands in the file, or else where what should hold it does.
func (d *decoder) line(path string) int {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}

// done returns the faults, and hands the warnings to c.
func (d *decoder) done(c *Config) error {
	byLine := func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) }
	slices.SortStableFunc(d.warnings, byLine)
	slices.SortStableFunc(d.faults, byLine)
	c.Warnings = d.warnings
	if len(d.faults) > 0 {
		return d.faults
	}
	return nil
}

// kind tells whether the node is of that kind, following an alias, and reports
// it if not. A key without a value is no fault of a mapping or a list: all its
// content may be commented out.
func (v *value) kind(want yaml.Kind) bool {
	if v.node.Kind == yaml.AliasNode {
		v.node = v.node.Alias
	}
	if v.node.Kind == want && (want != yaml.ScalarNode || v.node.Tag != "!!null") {
		return true
	}
	empty := v.node.Kind == yaml.ScalarNode && v.node.Tag == "!!null"
	if empty && want != yaml.ScalarNode {
		return false
	}
	words := map[yaml.Kind]string{
		yaml.ScalarNode:   "a single value",
		yaml.SequenceNode: "a list",
		yaml.MappingNode:  "a mapping of keys to values",
	}
	got := words[v.node.Kind]
	if empty {
		got = "no value"
	}
	v.fault("%s stands here, want %s", got, words[want])
	return false
}

// mapping reads a mapping that may have these keys and no others.
func (v value) mapping(fields ...field) {
	v.pairs(func(key string, child value) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
		switch {
		case i >= 0:
			fields[i].read(child)
		case key == "<<":
			child.fault("maps are not merged here: write the keys out")
		default:
			child.fault("unknown key%s", suggest(key, fields))
		}
	})
}

// pairs calls read for each key of a mapping that is not there twice.
func (v value) pairs(read func(key string, child value)) {
	if !v.kind(yaml.MappingNode) {
		return
	}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		key := v.node.Content[i]
		if key.Kind != yaml.ScalarNode {
			v.faultAt(key.Line, v.path, "a key must be a plain word")
			continue
		}
		child := value{v.decoder, strings.TrimPrefix(v.path+"."+printable(key.Value), "."), v.node.Content[i+1]}
		if first, twice := v.lines[child.path]; twice {
			v.faultAt(key.Line, child.path, "set already on line %d", first)
			continue
		}
		v.lines[child.path] = key.Line
		read(key.Value, child)
	}
}

// printable is a key as it may stand in a path.
func printable(key string) string {
	if key == "" || strings.Trim(key, labelOctets) != "" {
		return strconv.Quote(key)
	}
	return key
}

// list calls read for each item of a list.
func (v value) list(read func(item value)) {
	if !v.kind(yaml.SequenceNode) {
		return
	}
	for i, node := range v.node.Content {
		child := value{v.decoder, item(v.path, i), node}
		v.lines[child.path] = node.Line
		read(child)
	}
}

// section reads a mapping with these keys.
func section(fields []field) func(value) {
	return func(v value) { v.mapping(fields...) }
}

// offOr reads the word off, or a mapping with these keys.
func (v value) offOr(off *bool, fields []field) {
	if v.node.Kind == yaml.ScalarNode && v.node.Tag != "!!null" {
		into(off, func(text string) (bool, error) {
			if text != "off" {
				return false, fmt.Errorf("%q is not off, and no mapping either", text)
			}
			return true, nil
		})(v)
		return
	}
	v.mapping(fields...)
}

// into reads a single value with parse.
func into[T any](to *T, parse func(string) (T, error)) func(value) {
	return func(v value) {
		text, ok := v.text()
		if !ok {
			return
		}
		parsed, err := parse(text)
		if err != nil {
			v.fault("%v", err)
			return
		}
		*to = parsed
	}
}

// listInto reads a list of values with parse. It replaces what was there, by a
// list that is not nil.
func listInto[T any](to *[]T, parse func(string) (T, error)) func(value) {
	return func(v value) {
		*to = []T{}
		v.list(func(item value) {
			var one T
			into(&one, func(text string) (T, error) {
				parsed, err := parse(text)
				if err == nil {
					*to = append(*to, parsed)
				}
				return parsed, err
			})(item)
		})
	}
}

// text is a single value with its ${NAME} replaced from the environment.
func (v value) text() (string, bool) {
	if !v.kind(yaml.ScalarNode) {
		return "", false
	}
	text, err := expand(v.node.Value, v.env)
	if err != nil {
		v.fault("%v", err)
		return "", false
	}
	return text, true
}

// suggest is a hint at the key that was probably meant.
func suggest(key string, fields []field) string {
	best, distance := "", 3 // further away is no likeness
	for _, f := range fields {
		if d := editDistance(key, f.key); d < min(distance, len(f.key)) {
			best, distance = f.key, d
		}
	}
	if best != "" {
		return fmt.Sprintf(", did you mean %s?", best)
	}
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	return ", known are " + strings.Join(keys, ", ")
}

// editDistance counts the octets to insert, delete or replace to make a into b.
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
