package config

import "testing"

// What people get wrong in YAML is reported where it is, in words that do not
// presume that they know YAML's.
func TestSyntax(t *testing.T) {
	const before = "# a remark\nlisteners:\n  - address: \"127.0.0.1:1110\"\n" // three lines
	for _, c := range []struct{ name, text, want string }{
		{"star alone", "routes:\n  - user: *\n", `postern.yaml:5: not YAML: a value that begins with * or & has to be in quotes, such as "*"`},
		{"star in a list", "routes: [{user: *, upstream: office}]\n", `postern.yaml:4: not YAML: a value that begins with * or & has to be in quotes, such as "*"`},
		{"star before a name", "routes:\n  - user: *example\n", `postern.yaml:5: not YAML: a value that begins with * has to be in quotes, such as "*example"`},
		{"at", "routes:\n  - user: @example.org\n", "postern.yaml:5: not YAML: a value that begins with @, % or ` has to be in quotes"},
		{"tab", "routes:\n\t- user: ann\n", "postern.yaml:5: not YAML: the line begins with a tab: YAML is indented with spaces"},
		{"tab after spaces", "routes:\n  \t- user: ann\n", "postern.yaml:5: not YAML: the line begins with a tab: YAML is indented with spaces"},
		{"quote not closed", "routes:\n  - user: \"ann\n", "postern.yaml:5: not YAML: a quote, bracket or brace that is opened here is not closed"},
		{"brace not closed", "routes:\n  - {user: ann\n", "postern.yaml:5: not YAML: did not find expected ',' or '}'"},
		{"comma missing", "routes: [{user: ann upstream: office}]\n", "postern.yaml:4: not YAML: did not find expected ',' or '}'"},
		{"item indented less", "limits:\n   errors: 1\n  connections: 1\n", "postern.yaml:6: not YAML: did not find expected key"},
		{"key indented more", "limits:\n  errors: 1\n    connections: 1\n", "postern.yaml:6: not YAML: mapping values are not allowed in this context"},
		{"IPv6 address", "admin:\n  address: [::1]:9110\n", "postern.yaml:5: not YAML: did not find expected node content"},
		{"colon missing", "limits:\n  connections: 1\n  errors 1\n", "postern.yaml:6: not YAML: could not find expected ':'"},
		{"Latin-1", "# caf\xe9\n", "postern.yaml:4: not YAML: the line is not in UTF-8"},
		{"control character", "log: \x01\n", "postern.yaml:4: not YAML: control characters are not allowed"},
		{"merging", "limits: {<<: {errors: 5}}\n", `postern.yaml:4: limits."<<": maps are not merged here: write the keys out`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, d := parse("postern.yaml", []byte(before+c.text), nil, nil)
			if len(d.faults) == 0 || Faults(d.faults[:1]).Error() != c.want {
				t.Errorf("got  %v\nwant %s", d.faults, c.want)
			}
		})
	}
}
