package admin

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
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

// contentPolicy allows the page its own style, named by its hash, and nothing
// else: no script, image, form or frame, from anywhere.
var contentPolicy = "default-src 'none'; style-src 'sha256-" + hashOf(style) +
	"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

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
