// Package web keeps browsers from doing anything with postern's pages but show
// them. Some hold secrets, or have one in their address.
package web

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
)

// Where the forms of pages may be sent.
const (
	NoForms  = "'none'"
	OwnForms = "'self'"
)

// Protect tells browsers that pages load nothing but the style that they have in
// them, octet for octet, and that nobody else may frame, keep, list or be told of
// them. That holds for every answer, also a refusal.
func Protect(pages http.Handler, style, forms string) http.Handler {
	sum := sha256.Sum256([]byte(style))
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action " + forms + "; base-uri 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Robots-Tag", "noindex")
		pages.ServeHTTP(w, r)
	})
}
