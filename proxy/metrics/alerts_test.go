package metrics

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// selector is a metric of postern's in a PromQL expression, and its matcher if
// it has one.
var selector = regexp.MustCompile(`(` + prefix + `\w+)(?:\{(\w+)(=~?)"([^"]*)"\})?`)

// The rules in deploy are about series that are there before anything has
// happened: a rate from nothing to one cannot be seen.
func TestAlertsAreAboutSeriesThatExist(t *testing.T) {
	there := selectable(t)
	used := 0
	for alert, expr := range alerts(t) {
		for _, found := range selector.FindAllStringSubmatch(expr, -1) {
			used++
			name, label, values := found[1], found[2], []string{found[4]}
			if found[3] == "=~" {
				values = strings.Split(found[4], "|")
			}
			for _, value := range values {
				if want := (labelled{name, label, value}); !there[want] {
					t.Errorf("%s: there is no series %+v", alert, want)
				}
			}
		}
	}
	if used < 16 {
		t.Errorf("found %d series in the rules, want one at least for each of 16", used)
	}
}

// A labelled metric has one series at least with this label, or any series if
// the label is empty.
type labelled struct{ name, label, value string }

// selectable are the metrics and labels that a new gateway has.
func selectable(t *testing.T) map[labelled]bool {
	t.Helper()
	m, _, _ := full()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[labelled]bool)
	for _, f := range families {
		there[labelled{name: f.GetName()}] = true
		for _, s := range f.GetMetric() {
			for _, l := range s.GetLabel() {
				there[labelled{f.GetName(), l.GetName(), l.GetValue()}] = true
			}
		}
	}
	return there
}

// alerts reads the rules, by the names of their alerts.
func alerts(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			found[r.Alert] = r.Expr
		}
	}
	return found
}
