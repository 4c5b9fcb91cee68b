package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"strings"

	"postern/cmd/internal/config"
	"postern/upstream"
	"postern/upstream/oauth"
)

// An adviser knows one kind of failure. The first that knows it is asked.
type adviser struct {
	knows func(u config.Upstream, err error) bool
	says  func(u config.Upstream) string
}

// advice says what to do about a failure, in words for who runs the gateway.
func advice(u config.Upstream, err error) string {
	i := slices.IndexFunc(advisers, func(a adviser) bool { return a.knows(u, err) })
	return advisers[i].says(u) // the last one knows everything
}

// tokenAdvice is the same where no upstream was asked yet.
func tokenAdvice(u config.Upstream, err error) string {
	if !errors.Is(err, upstream.ErrRejected) && !errors.Is(err, upstream.ErrUnavailable) && !isRefusal(err) && !isConsent(err) {
		return "Nothing was changed."
	}
	return advice(u, err)
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*oauth.Refusal](err)
	return ok
}

func isConsent(err error) bool {
	return slices.ContainsFunc([]error{oauth.ErrDenied, oauth.ErrForeign, oauth.ErrNoRefresh, oauth.ErrScope}, func(e error) bool { return errors.Is(err, e) })
}

var advisers = []adviser{
	{is(errNotPinned), text("The server shows another certificate than the one that fingerprint names. If it was renewed, put the new fingerprint there; if not, somebody may be in between.")},
	{as[x509.UnknownAuthorityError], text("No authority that is trusted here signed the server's certificate. If it is a private one, name its certificate in ca_file, or that of the server in fingerprint.")},
	{as[x509.HostnameError], text("The server's certificate is for another name. Use that name in address, or set server_name to it.")},
	{expired, text("The server's certificate has expired, or is not valid yet. It has to be renewed there; also look at this machine's clock.")},
	{as[tls.RecordHeaderError], text("The server does not speak TLS on this port. IMAP has implicit TLS on port 993; on port 143 use tls: starttls.")},
	{says("greeting +ok"), text("This is a POP3 server. postern needs the IMAP server of the same mailboxes, mostly on port 993, or 143 with tls: starttls.")},
	{as[*net.DNSError], text("The name of the server could not be looked up. Is it spelt correctly?")},

	// What a person answered.
	{is(oauth.ErrDenied), text("The owner of the mailbox, or an administrator, said no. At Microsoft 365 an administrator may have to approve the application first; Google refuses people who are not test users of an application in testing.")},
	{is(oauth.ErrForeign), text("The answer was not to this request: it may come from an earlier one. Begin again, and open the address that is printed then.")},
	{is(oauth.ErrNoRefresh), text("Ask for a scope that allows access while nobody is there, which most providers call offline_access.")},
	{is(oauth.ErrScope), text("The owner has to leave the box for reading mail ticked. Begin again.")},

	// What a provider says of the application, by its codes: AADSTS are Microsoft's
	// (learn.microsoft.com/entra/identity-platform/reference-error-codes).
	{says("aadsts7000222"), text("The client secret has expired. Make a new one in the Entra admin center, under App registrations, Certificates & secrets, and put it in the file that client_secret_file names.")},
	{says("aadsts7000215"), text("The client secret is wrong. client_secret_file has to hold the secret's Value, which the Entra admin center shows once, and not its ID.")},
	{says("aadsts700027"), text("The certificate is not the one that is registered for the application, or is not valid now. Upload it in the Entra admin center, under App registrations, Certificates & secrets.")},
	{says("aadsts700016", "aadsts90002"), text("There is no application with this client_id in the organisation that tenant names. Look at both in the Entra admin center, under App registrations, Overview.")},
	{says("aadsts65001", "aadsts90094"), text("Consent is missing: an administrator has to grant it, in the Entra admin center under App registrations, API permissions.")},
	{says("aadsts50011", "redirect_uri_mismatch"), text("The address that the browser comes back to is not registered for the application. Register http://localhost for Microsoft (platform: mobile and desktop applications); at Google take a client of the type Desktop app.")},
	{says("aadsts7000218"), text("The application is not registered as a public client, and has no secret here. Set client_secret_file, or allow public client flows in the Entra admin center, under Authentication.")},
	{says("invalid_client"), text("The provider does not know this client_id with this secret. Look at both where postern is registered there.")},
	{says("unauthorized_client"), googleOr("The provider does not let this application have tokens in this way. Look at how it is registered there.",
		"Google does not let the service account act for this user. In the Admin console, under Security, API controls, Domain-wide delegation, add the service account's client ID with the scope https://mail.google.com/; it may take a day to hold.")},
	{says("invalid_scope"), text("The provider does not know a scope that is asked for, or does not give it to this application. Look at oauth.scopes and at the application's permissions there.")},
	{consentLost, consentWords},

	// What a server says of the account.
	{says("authenticated but not connected"), text(notConnected)},
	{says("not enabled for imap", "imap access is disabled", "imap is disabled", "enabled for imap use"), text("IMAP is switched off for this mailbox. Its owner, or an administrator, has to switch it on at the provider.")},
	{says("application-specific password", "app password", "invalidsecondfactor"), text("The provider wants an app password, made in the account's security settings, in place of the account's own.")},
	{says("web login required", "webalert"), text("Google wants the owner to log in by browser once, because this login looked odd to it. See accounts.google.com/DisplayUnlockCaptcha.")},
	{says("unsafe login"), text("NetEase has not let this program in. IMAP has to be switched on in the account's settings, and the password has to be an authorization code from there.")},
	{says("neither auth=oauthbearer nor auth=xoauth2"), text("The server takes no access tokens. Is the address that of the provider whose tokens these are?")},
	{says("throttl", "suggested backoff"), text("The provider slows this account down: it logged in too often, or loaded too much. Leave it alone for some minutes, and set limits.login_delay or a route's warm for the time to come.")},
	{refusedToken, text("The server does not take the token: it may be that of another user than the name that postern logs in with, or lack the scope for IMAP. Look at upstream_user, and at oauth.scopes.")},
	{is(upstream.ErrAuth), func(u config.Upstream) string {
		if help := profile(u).Help; help != "" {
			return "The server refused the name or the password. " + help
		}
		if u.Protocol == config.JMAP {
			return "The server refused the name or the password. If that is an API token, the upstream needs credentials: bearer; if not, basic."
		}
		return "The server refused the name or the password. Many providers want an app password here, or have IMAP switched off until it is allowed in the account's settings."
	}},
	{is(upstream.ErrRejected), text("The server let the user in, but not to the mailbox. Something has to be changed there, such as a permission or a setting of the account.")},
	{isAny(upstream.ErrBusy, upstream.ErrTooSoon), text("The server has enough logins of this account for now. Try again in some minutes.")},
	{noToken, text("The provider's token endpoint could not be reached, or gave no sensible answer. Nothing is lost; try again later. There may be a firewall in between: postern asks it by https, from this machine.")},
	{func(u config.Upstream, _ error) bool { return u.Protocol == config.IMAP && u.TLS == config.TLSStartTLS },
		text("The server could not be reached, offers no STARTTLS, or broke off. STARTTLS is usual on port 143; with port 993 take tls: implicit. There may be a firewall in between, too.")},
	{func(config.Upstream, error) bool { return true },
		text("The server could not be reached, or broke off. Look at its address and port, and whether a firewall is in between.")},
}

// notConnected is Exchange Online, which lets a token in and only then says that
// there is no mailbox behind it. The causes are those that people found behind
// it: MailKit #1494, email-oauth2-proxy #74 and #275, getmail6 #214 and #221,
// imapflow #314.
const notConnected = `Exchange Online takes the token, but opens no mailbox for it. There are five known causes:
- IMAP is off for the mailbox: Set-CASMailbox -Identity USER -ImapEnabled $true.
- The token is somebody else's. Consent has to come from the owner of the very name that postern logs in with (upstream_user); for a shared mailbox, from somebody with Full Access to it.
- With grant: client_credentials, Exchange does not know the application, or has not given it the mailbox: New-ServicePrincipal with the object ID of the enterprise application (not that of the app registration), then Add-MailboxPermission -Identity USER -User OBJECT_ID -AccessRights FullAccess. docs/microsoft365.md has every step.
- The token is for another tenant or resource: look at oauth.tenant and oauth.scopes.
- There were too many logins lately: wait some minutes, then try again.`

func is(target error) func(config.Upstream, error) bool {
	return func(_ config.Upstream, err error) bool { return errors.Is(err, target) }
}

func isAny(targets ...error) func(config.Upstream, error) bool {
	return func(_ config.Upstream, err error) bool {
		return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
	}
}

func as[E error](_ config.Upstream, err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// says knows a failure by words in it, whatever their case.
func says(words ...string) func(config.Upstream, error) bool {
	return func(_ config.Upstream, err error) bool {
		said := strings.ToLower(err.Error())
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(said, w) })
	}
}

func text(words string) func(config.Upstream) string {
	return func(config.Upstream) string { return words }
}

func googleOr(words, google string) func(config.Upstream) string {
	return func(u config.Upstream) string {
		if profile(u).Name == "gmail" {
			return google
		}
		return words
	}
}

func expired(_ config.Upstream, err error) bool {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && invalid.Reason == x509.Expired
}

func consentLost(u config.Upstream, err error) bool { return errors.Is(err, upstream.ErrConsent) }

func consentWords(u config.Upstream) string {
	words := "Nothing gives tokens for this account. Its owner has to consent: postern account connect USER."
	if profile(u).Name == "gmail" {
		words += " Google ends consent after 7 days for an application that is in testing: publish it, or make it internal to the organisation; and whenever the owner changes the password, if the scope is for mail."
	}
	return words
}

// refusedToken is a server's refusal where the credential is a token.
func refusedToken(u config.Upstream, err error) bool {
	return u.OAuth.Set() && errors.Is(err, upstream.ErrAuth)
}

// noToken is a failure before any mail server was asked.
func noToken(u config.Upstream, err error) bool {
	return !errors.Is(err, context.Canceled) && says("access token", "token endpoint", "look up the endpoints")(u, err)
}
