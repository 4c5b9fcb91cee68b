package admin

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"time"
)

//go:embed page.css
var style string

//go:embed page.html
var source string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"when":  when,
	"since": func(t time.Time) string { return time.Since(t).Truncate(time.Second).String() },
	"past":  func(t time.Time) bool { return time.Now().After(t) },
	"style": func() template.CSS { return template.CSS(style) },
}).Parse(source))

// page writes the status page. It is made whole before the first octet is
// sent, so that a fault in it is a 500 and not half a page.
func page(w http.ResponseWriter, status Status) {
	data := struct {
		Overview
		Trouble string
	}{Overview: status.Overview()}
	if err := status.Ready(); err != nil {
		data.Trouble = err.Error()
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, data); err != nil {
		text(w, http.StatusInternalServerError, "status page: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(b.Bytes())
}

func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}
