package provider

import (
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestProfiles(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range profiles {
		if p.Name == "" || p.Title == "" || seen[p.Name] || strings.Trim(p.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("a name that is empty, taken or odd: %q", p.Name)
		}
		seen[p.Name] = true
		if p.Name == "generic" {
			continue
		}
		switch p.Protocol {
		case "imap":
			if _, _, err := net.SplitHostPort(p.Address); err != nil || p.URL != "" {
				t.Errorf("%s: address %q, url %q", p.Name, p.Address, p.URL)
			}
		case "jmap":
			https(t, p.Name, p.URL)
		default:
			t.Errorf("%s: protocol %q", p.Name, p.Protocol)
		}
		if len(p.Logins) == 0 || p.Help == "" {
			t.Errorf("%s does not say how to log in", p.Name)
		}
		o := p.OAuth.In("")
		if p.Takes(Consent) {
			https(t, p.Name, o.AuthURL)
			https(t, p.Name, o.TokenURL)
			if len(o.Scopes) == 0 {
				t.Errorf("%s: no scopes", p.Name)
			}
		}
		if o.DeviceURL != "" {
			https(t, p.Name, o.DeviceURL)
		}
		if (p.Takes(ClientCredentials) || p.Takes(ServiceAccount)) != (len(o.ServiceScopes) > 0) {
			t.Errorf("%s: logins %q, but scopes %q for them", p.Name, p.Logins, o.ServiceScopes)
		}
	}
}

func https(t *testing.T, name, address string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.ContainsAny(address, "{}") {
		t.Errorf("%s: %q is not https with a host", name, address)
	}
}

func TestTenant(t *testing.T) {
	p, ok := Find("microsoft365")
	if !ok {
		t.Fatal("no microsoft365")
	}
	if got, want := p.OAuth.In("contoso.com").TokenURL, "https://login.microsoftonline.com/contoso.com/oauth2/v2.0/token"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := p.OAuth.In("").AuthURL, "https://login.microsoftonline.com/organizations/oauth2/v2.0/authorize"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestFind(t *testing.T) {
	if _, ok := Find("gmial"); ok {
		t.Error("found gmial")
	}
	if p, ok := For("IMAP.gmail.com"); !ok || p.Name != "gmail" {
		t.Errorf("For found %q, %t", p.Name, ok)
	}
	for _, host := range []string{"imap.example.org", "127.0.0.1", ""} {
		if p, ok := For(host); ok {
			t.Errorf("For(%q) found %q", host, p.Name)
		}
	}
	if names := Names(); len(names) != len(profiles) || !slices.Contains(names, "yahoo") {
		t.Errorf("names %q", names)
	}
}
