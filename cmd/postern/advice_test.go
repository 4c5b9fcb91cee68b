package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"postern/cmd/internal/config"
	"postern/upstream"
	"postern/upstream/oauth"
)

// What goes wrong, and words that only the right advice has.
func TestAdvice(t *testing.T) {
	plain := config.Upstream{Protocol: config.IMAP, Address: "imap.example.org:993", TLS: config.TLSImplicit}
	gmail := config.Upstream{Provider: "gmail", Protocol: config.IMAP, Address: "imap.gmail.com:993", TLS: config.TLSImplicit}
	entra := config.Upstream{Provider: "microsoft365", Protocol: config.IMAP, Address: "outlook.office365.com:993", TLS: config.TLSImplicit,
		OAuth: config.OAuth{Grant: config.ByClientCredentials}}
	jmap := config.Upstream{Provider: "fastmail", Protocol: config.JMAP}
	starttls := config.Upstream{Protocol: config.IMAP, TLS: config.TLSStartTLS}
	server := func(text string, kind error) error {
		return fmt.Errorf("log in %q: the server says %s: %w", "ann", text, kind)
	}
	provider := func(text string, kind error) error {
		return fmt.Errorf("access token of %q: the provider says %s: %w", "ann", text, kind)
	}
	for _, test := range []struct {
		name string
		u    config.Upstream
		err  error
		want string
	}{
		{"IMAP off, no mailbox permission, other user", entra, server("BAD User is authenticated but not connected.", upstream.ErrRejected), "five known causes"},
		{"the same, throttled", entra, server("BAD User is authenticated but not connected. Request throttled.", upstream.ErrUnavailable), "five known causes"},
		{"throttled", entra, server("BAD Request is throttled. Suggested Backoff Time: 299910 milliseconds", upstream.ErrUnavailable), "slows this account down"},
		{"a refused token", entra, server("NO AUTHENTICATE failed.", upstream.ErrAuth), "that of another user than the name"},
		{"an expired secret", entra, provider("invalid_client: AADSTS7000222: The provided client secret keys are expired.", upstream.ErrRejected), "has expired. Make a new one"},
		{"the secret's id", entra, provider("invalid_client: AADSTS7000215: Invalid client secret provided.", upstream.ErrRejected), "Value, which"},
		{"another certificate", entra, provider("invalid_client: AADSTS700027: Client assertion failed signature validation.", upstream.ErrRejected), "certificate is not the one"},
		{"another tenant", entra, provider("unauthorized_client: AADSTS700016: Application was not found in the directory", upstream.ErrRejected), "no application with this client_id"},
		{"no admin consent", entra, provider("invalid_grant: AADSTS65001: The user or administrator has not consented", upstream.ErrConsent), "an administrator has to grant it"},
		{"another redirect", entra, provider("invalid_request: AADSTS50011: The redirect URI does not match", upstream.ErrRejected), "Register http://localhost"},
		{"no public client", entra, provider("invalid_client: AADSTS7000218: client_assertion or client_secret required", upstream.ErrRejected), "public client flows"},
		{"an unknown client", gmail, provider("invalid_client: The OAuth client was not found.", upstream.ErrRejected), "does not know this client_id"},
		{"no delegation", gmail, provider("unauthorized_client: Client is unauthorized to retrieve access tokens", upstream.ErrRejected), "Domain-wide delegation"},
		{"the same elsewhere", plain, provider("unauthorized_client", upstream.ErrRejected), "how it is registered there"},
		{"an odd scope", plain, provider("invalid_scope: no such scope", upstream.ErrRejected), "oauth.scopes"},
		{"consent that ended", plain, provider("invalid_grant: Token has been expired or revoked.", upstream.ErrConsent), "has to consent: postern account connect"},
		{"the same at Google", gmail, provider("invalid_grant", upstream.ErrConsent), "after 7 days"},
		{"a token endpoint that is down", gmail, fmt.Errorf("access token of %q: token endpoint: timeout: %w", "ann", upstream.ErrUnavailable), "token endpoint could not be reached"},
		{"the old POP3 server", plain, fmt.Errorf("connect to pop.example.org:995: greeting +OK ready.: %w", upstream.ErrUnavailable), "postern needs the IMAP server"},
		{"a server without tokens", plain, fmt.Errorf("the server offers neither AUTH=OAUTHBEARER nor AUTH=XOAUTH2: %w", upstream.ErrRejected), "takes no access tokens"},
		{"IMAP off at Google", gmail, server("NO [ALERT] Your account is not enabled for IMAP use. (Failure)", upstream.ErrRejected), "IMAP is switched off"},
		{"an app password is wanted", gmail, server("NO [ALERT] Application-specific password required: https://support.google.com (Failure)", upstream.ErrAuth), "wants an app password, made"},
		{"log in by browser", gmail, server("NO [WEBALERT https://accounts.google.com/] Web login required.", upstream.ErrRejected), "log in by browser once"},
		{"NetEase", plain, server("NO SELECT Unsafe Login. Please contact kefu@188.com for help", upstream.ErrRejected), "authorization code"},
		{"a wrong password at Google", gmail, server("NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", upstream.ErrAuth), "Google Workspace takes no account passwords"},
		{"at another JMAP server", config.Upstream{Protocol: config.JMAP}, fmt.Errorf("jmap login: %w: HTTP status 401", upstream.ErrAuth), "credentials: bearer"},
		{"at Fastmail", jmap, fmt.Errorf("jmap login: %w: HTTP status 401", upstream.ErrAuth), "API token with the scope Email"},
		{"anywhere", plain, server("NO [AUTHENTICATIONFAILED] no", upstream.ErrAuth), "Many providers want an app password"},
		{"no permission", plain, server("NO [NOPERM] no", upstream.ErrRejected), "but not to the mailbox"},
		{"too many", plain, server("NO [LIMIT] no", upstream.ErrBusy), "enough logins"},
		{"denied", entra, oauth.ErrDenied, "said no"},
		{"for an hour", plain, oauth.ErrNoRefresh, "offline_access"},
		{"unticked", gmail, fmt.Errorf("%w: it lacks x", oauth.ErrScope), "ticked"},
		{"an old answer", plain, oauth.ErrForeign, "earlier one"},
		{"no such host", plain, &net.DNSError{Err: "no such host"}, "spelt correctly"},
		{"another name", plain, fmt.Errorf("tls: %w", x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}), "server_name"},
		{"an old certificate", plain, x509.CertificateInvalidError{Reason: x509.Expired}, "has expired, or is not valid yet"},
		{"too soon", plain, fmt.Errorf("login: %w", upstream.ErrTooSoon), "enough logins"},
		{"no STARTTLS", starttls, upstream.ErrUnavailable, "offers no STARTTLS"},
		{"no server", plain, errors.New("connection refused"), "whether a firewall"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := advice(test.u, test.err)
			if !strings.Contains(got, test.want) {
				t.Errorf("%v\nadvice %q\nwant one with %q", test.err, got, test.want)
			}
		})
	}
}

// Every page that advice names is there.
func TestAdviceNamesPages(t *testing.T) {
	if !strings.Contains(notConnected, "docs/microsoft365.md") || strings.Count(notConnected, "\n- ") != 5 {
		t.Errorf("not five causes, or no page: %s", notConnected)
	}
}
