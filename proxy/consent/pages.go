package consent

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"time"
)

//go:embed pages
var files embed.FS

//go:embed pages/style.css
var style string

// pages are the templates, each within frame.html.
var pages = func() map[string]*template.Template {
	frame := template.Must(template.New("frame.html").Funcs(template.FuncMap{
		"style":   func() template.CSS { return template.CSS(style) },
		"day":     func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 MST") },
		"grouped": grouped,
	}).ParseFS(files, "pages/frame.html"))
	all := map[string]*template.Template{}
	for _, name := range []string{"invited.html", "begin.html", "done.html", "accounts.html", "invite.html", "trouble.html"} {
		all[name] = template.Must(template.Must(frame.Clone()).ParseFS(files, "pages/"+name))
	}
	return all
}()

// show writes a page, made whole before the first octet of it is sent.
func (s *Site) show(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := pages[name].ExecuteTemplate(&b, "frame.html", data); err != nil {
		s.log.Error("page", "name", name, "err", err)
		http.Error(w, "this page is broken", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}
