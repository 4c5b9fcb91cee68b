package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// timed are the packages whose time-outs, throttles, back-offs, locks and warm
// connections must not notice that somebody sets the clock. A time.Time from
// time.Now tells the monotonic clock too, and time.Since, Sub and deadlines go by
// that (package time); what is below loses it.
var timed = []string{"proxy", "proxy/auth", "proxy/pop3", "cmd/internal/logsink", "upstream/imapc", "upstream/jmapc", "upstream/spool"}

// wall are the ways to a time without the monotonic clock: functions of their
// packages, and methods of a time.Time.
var wall = []string{"time.Unix", "time.UnixMilli", "time.Date", "time.Parse", "time.ParseInLocation", "http.ParseTime",
	"Unix", "UnixMilli", "UnixMicro", "UnixNano", "UTC", "Local", "In", "AddDate", "NotAfter", "NotBefore"}

// meant is where the wall clock is meant.
var meant = []string{
	"proxy/certificate.go: NotAfter",         // the end of a certificate is a date
	"upstream/imapc/describe.go: NotAfter",   // and is shown as one
	"upstream/imapc/describe.go: UTC",        //
	"proxy/pop3/wire.go: time.Unix",          // a deadline that is over by any clock
	"upstream/jmapc/wire.go: http.ParseTime", // Retry-After with a date
	"upstream/jmapc/list.go: Unix",           // when messages were received
	"upstream/jmapc/list.go: time.Parse",     //
	"upstream/jmapc/list.go: time.Unix",      //
	"upstream/jmapc/relist.go: UTC",          //
	"upstream/jmapc/relist.go: time.Parse",   //
	"upstream/jmapc/relist.go: time.Unix",    //
}

// The wall clock may jump by a day, and no duration is another for it.
func TestFaultH10DurationsGoByTheMonotonicClock(t *testing.T) {
	var found []string
	files := 0
	for _, dir := range timed {
		names, err := filepath.Glob(filepath.Join("..", "..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			files++
			for _, use := range wallClock(t, name) {
				found = append(found, dir+"/"+filepath.Base(name)+": "+use)
			}
		}
	}
	if files < 50 {
		t.Errorf("looked at %d files, want all of %q", files, timed)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	for _, use := range found {
		if !slices.Contains(meant, use) {
			t.Errorf("%s goes by the wall clock; where that is meant, say so in this test", use)
		}
	}
	for _, use := range meant {
		if !slices.Contains(found, use) {
			t.Errorf("%s is no more; take it off the list", use)
		}
	}
}

// wallClock returns what of wall a file uses.
func wallClock(t *testing.T, name string) (uses []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		use := s.Sel.Name
		if of, ok := s.X.(*ast.Ident); ok && slices.Contains(wall, of.Name+"."+use) {
			use = of.Name + "." + use
		}
		if slices.Contains(wall, use) {
			uses = append(uses, use)
		}
		return true
	})
	return uses
}
