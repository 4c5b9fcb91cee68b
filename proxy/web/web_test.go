package web

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestProtect(t *testing.T) {
	const style = "p { color: red }"
	sum := sha256.Sum256([]byte(style))
	hash := base64.StdEncoding.EncodeToString(sum[:])
	for forms, want := range map[string]string{
		NoForms:  "default-src 'none'; style-src 'sha256-" + hash + "'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
		OwnForms: "default-src 'none'; style-src 'sha256-" + hash + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	} {
		w := httptest.NewRecorder()
		Protect(http.NotFoundHandler(), style, forms).ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
		for name, want := range map[string]string{
			"Content-Security-Policy": want,
			"X-Content-Type-Options":  "nosniff",
			"Cache-Control":           "no-store",
			"Referrer-Policy":         "no-referrer",
			"X-Robots-Tag":            "noindex",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("forms %s: %s: got %q, want %q", forms, name, got, want)
			}
		}
		if w.Code != http.StatusNotFound {
			t.Errorf("got status %d, want that of the page, %d", w.Code, http.StatusNotFound)
		}
	}
}
