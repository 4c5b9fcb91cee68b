package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"

	"gopkg.in/yaml.v3"
)

// syntax reports that the file is no YAML. The parser tells where the block
// began that it could not read, which may be the whole file; the line that it
// stumbled over is the last of the shortest beginning of the file that fails alike.
func (d *decoder) syntax(text []byte, err error) {
	says := withoutLine(err)
	lines := bytes.SplitAfter(text, []byte("\n"))
	before := sort.Search(len(lines)-1, func(n int) bool {
		err := syntaxOf(bytes.Join(lines[:n+1], nil))
		return err != nil && withoutLine(err) == says
	})
	d.faultAt(before+1, "", "not YAML: %s", plainly(says, string(lines[before])))
}

// syntaxOf is what the parser finds wrong with a text.
func syntaxOf(text []byte) error {
	y := yaml.NewDecoder(bytes.NewReader(text))
	for {
		switch err := y.Decode(new(yaml.Node)); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

var syntaxLine = regexp.MustCompile(`^yaml: (?:line \d+: )?`)

func withoutLine(err error) string { return syntaxLine.ReplaceAllString(err.Error(), "") }

// plainly is what the parser says of a line, in words for somebody who does not
// know YAML's. An unquoted * is what a pattern of a route begins with.
func plainly(says, line string) string {
	name, unknown := strings.CutPrefix(strings.TrimSuffix(says, "' referenced"), "unknown anchor '")
	indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
	switch {
	case unknown:
		return fmt.Sprintf(`a value that begins with * has to be in quotes, such as "*%s"`, name)
	case says == "did not find expected alphabetic or numeric character":
		return `a value that begins with * or & has to be in quotes, such as "*"`
	case says == "found character that cannot start any token" && strings.Contains(indent, "\t"):
		return "the line begins with a tab: YAML is indented with spaces"
	case says == "found character that cannot start any token":
		return "a value that begins with @, % or ` has to be in quotes"
	case says == "found unexpected end of stream":
		return "a quote, bracket or brace that is opened here is not closed"
	case strings.Contains(says, "UTF-8"):
		return "the line is not in UTF-8"
	}
	return says
}
