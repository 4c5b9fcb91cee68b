package provider

// All of it was looked up in November 2026. Nothing here was tried with an
// account of the provider's.
var profiles = []Profile{
	// Server: support.google.com/mail/answer/7126229.
	// Endpoints: developers.google.com/identity/protocols/oauth2/native-app, and
	// accounts.google.com/.well-known/openid-configuration. The device flow does
	// not admit the scope for mail
	// (developers.google.com/identity/protocols/oauth2/limited-input-device#allowedscopes).
	// Scope: developers.google.com/workspace/gmail/imap/xoauth2-protocol, which
	// is the same for service accounts. access_type=offline asks for a refresh
	// token, prompt=consent for one at every consent and not at the first only
	// (developers.google.com/identity/protocols/oauth2/web-server#offline).
	// EXPUNGE in the inbox takes away a label and no more, unless the account is
	// set up to do otherwise, and may do so as soon as \Deleted is set
	// (support.google.com/mail/answer/78892; imapSettings in
	// developers.google.com/workspace/gmail/api/reference/rest/v1/ImapSettings):
	// what a POP3 client's user means by removing is the trash.
	{
		Name: "gmail", Title: "Gmail",
		Protocol: "imap", Address: "imap.gmail.com:993",
		Logins: []string{Consent, ServiceAccount, AppPassword},
		OAuth: OAuth{
			AuthURL:       "https://accounts.google.com/o/oauth2/v2/auth",
			TokenURL:      "https://oauth2.googleapis.com/token",
			Scopes:        []string{"https://mail.google.com/"},
			ServiceScopes: []string{"https://mail.google.com/"},
			Parameters:    map[string]string{"access_type": "offline", "prompt": "consent"},
		},
		Delete: "trash",
		Help:   "Google Workspace takes no account passwords by IMAP. Connect the account by consent, let a service account in, or make an app password where two-step verification is on.",
		Docs:   "gmail.md",
	},
	// Server, scopes and mechanism: learn.microsoft.com/exchange/client-developer/
	// legacy-protocols/how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth
	// (IMAP.AccessAsUser.All at outlook.office.com for people,
	// outlook.office365.com/.default with IMAP.AccessAsApp for applications).
	// Endpoints: learn.microsoft.com/entra/identity-platform/v2-protocols.
	// Redirects to this machine are registered as http://localhost, with any port
	// (learn.microsoft.com/entra/identity-platform/reply-url#localhost-exceptions).
	{
		Name: "microsoft365", Title: "Microsoft 365",
		Protocol: "imap", Address: "outlook.office365.com:993",
		Logins: []string{ClientCredentials, Consent},
		OAuth:  entra("login.microsoftonline.com", "outlook.office.com", "outlook.office365.com", "organizations"),
		Help:   microsoftHelp,
		Docs:   "microsoft365.md",
	},
	// Hosts of the national clouds: learn.microsoft.com/microsoft-365/enterprise/
	// microsoft-365-u-s-government-gcc-high-endpoints and -dod-endpoints, and
	// .../microsoft-365/enterprise/urls-and-ip-address-ranges-21vianet; sign-in:
	// learn.microsoft.com/entra/identity-platform/authentication-national-cloud.
	// The scopes are those of the worldwide cloud at the hosts of theirs, as other
	// clients have them; for DoD that was found nowhere in writing.
	{
		Name: "microsoft365-gcc-high", Title: "Microsoft 365 GCC High",
		Protocol: "imap", Address: "outlook.office365.us:993",
		Logins: []string{ClientCredentials, Consent},
		OAuth:  entra("login.microsoftonline.us", "outlook.office365.us", "outlook.office365.us", "organizations"),
		Help:   microsoftHelp,
		Docs:   "microsoft365.md",
	},
	{
		Name: "microsoft365-dod", Title: "Microsoft 365 DoD",
		Protocol: "imap", Address: "outlook-dod.office365.us:993",
		Logins: []string{ClientCredentials, Consent},
		OAuth:  entra("login.microsoftonline.us", "outlook-dod.office365.us", "outlook-dod.office365.us", "organizations"),
		Help:   microsoftHelp,
		Docs:   "microsoft365.md",
	},
	{
		Name: "microsoft365-china", Title: "Microsoft 365 operated by 21Vianet",
		Protocol: "imap", Address: "partner.outlook.cn:993",
		Logins: []string{ClientCredentials, Consent},
		OAuth:  entra("login.partner.microsoftonline.cn", "partner.outlook.cn", "partner.outlook.cn", "organizations"),
		Help:   microsoftHelp,
		Docs:   "microsoft365.md",
	},
	// Personal accounts. Server: support.microsoft.com, "POP, IMAP, and SMTP
	// settings for Outlook.com". Passwords have not been taken since 2024-09-16
	// (support.microsoft.com, "Modern Authentication Methods now needed to
	// continue syncing Outlook Email in non-Microsoft email apps").
	{
		Name: "outlook", Title: "Outlook.com",
		Protocol: "imap", Address: "outlook.office365.com:993",
		Logins: []string{Consent},
		OAuth:  entra("login.microsoftonline.com", "outlook.office.com", "", "consumers"),
		Help:   "Outlook.com takes no passwords by IMAP: connect the account by consent. IMAP may have to be allowed first, at outlook.com under Settings, Mail, Forwarding and IMAP.",
		Docs:   "microsoft365.md",
	},
	// Server and mechanism: senders.yahooinc.com/developer/documentation
	// (OAUTHBEARER). Endpoints: developer.yahoo.com/oauth2/guide. The scope is given to
	// applications that Yahoo has approved; for all others there are app passwords
	// (help.yahoo.com/kb/SLN15241.html).
	{
		Name: "yahoo", Title: "Yahoo",
		Protocol: "imap", Address: "imap.mail.yahoo.com:993",
		Logins: []string{AppPassword, Consent},
		OAuth: OAuth{
			AuthURL: "https://api.login.yahoo.com/oauth2/request_auth", TokenURL: "https://api.login.yahoo.com/oauth2/get_token",
			Scopes: []string{"mail-w"}, Basic: true,
		},
		Help: "Yahoo wants an app password: Account security, Generate app password. It shows at most 10,000 messages of a mailbox by IMAP.",
	},
	{
		Name: "aol", Title: "AOL",
		Protocol: "imap", Address: "imap.aol.com:993",
		Logins: []string{AppPassword, Consent},
		OAuth: OAuth{
			AuthURL: "https://api.login.aol.com/oauth2/request_auth", TokenURL: "https://api.login.aol.com/oauth2/get_token",
			Scopes: []string{"mail-w"}, Basic: true,
		},
		Help: "AOL wants an app password: Account security, Generate app password.",
	},
	// Session and API tokens: www.fastmail.com/for-developers/integrating-with-fastmail.
	// OAuth: www.fastmail.com/for-developers/oauth; endpoints as in
	// api.fastmail.com/.well-known/oauth-authorization-server. Its refresh tokens
	// are good once, so that a crash at the wrong moment asks for consent anew.
	{
		Name: "fastmail", Title: "Fastmail",
		Protocol: "jmap", URL: "https://api.fastmail.com/jmap/session",
		Logins: []string{AppPassword, Consent},
		OAuth: OAuth{
			AuthURL: "https://api.fastmail.com/oauth/authorize", TokenURL: "https://api.fastmail.com/oauth/refresh",
			Scopes: []string{"urn:ietf:params:jmap:core", "urn:ietf:params:jmap:mail", "offline_access"},
		},
		Help: "Fastmail wants an API token with the scope Email: Settings, Privacy & Security, Manage API tokens.",
		Docs: "fastmail.md",
	},
	// www.fastmail.help, "Server names and ports": for accounts without JMAP.
	{
		Name: "fastmail-imap", Title: "Fastmail",
		Protocol: "imap", Address: "imap.fastmail.com:993",
		Logins: []string{AppPassword, Consent},
		OAuth: OAuth{
			AuthURL: "https://api.fastmail.com/oauth/authorize", TokenURL: "https://api.fastmail.com/oauth/refresh",
			Scopes: []string{"https://www.fastmail.com/dev/protocol-imap"},
		},
		Help: "Fastmail wants an app password with access to mail: Settings, Privacy & Security, Manage app passwords.",
		Docs: "fastmail.md",
	},
	// support.apple.com/102525 (server; the name is the part before the @ in some
	// clients, the address works too) and 102654 (app-specific passwords).
	{
		Name: "icloud", Title: "iCloud Mail",
		Protocol: "imap", Address: "imap.mail.me.com:993",
		Logins: []string{AppPassword},
		Help:   "iCloud wants an app-specific password: account.apple.com, Sign-In and Security, App-Specific Passwords.",
	},
	// www.zoho.com/mail/help/imap-access.html; its other data centres have hosts
	// of their own, such as imap.zoho.eu. Organisations use imappro.zoho.com.
	{
		Name: "zoho", Title: "Zoho Mail",
		Protocol: "imap", Address: "imap.zoho.com:993",
		Logins: []string{AppPassword, Password},
		Help:   "IMAP has to be allowed in Zoho Mail, Settings, Mail Accounts. With two-factor authentication an application-specific password is needed. The address names the data centre: imap.zoho.com, imap.zoho.eu, imap.zoho.in; organisations have imappro.zoho.com.",
	},
	// yandex.com/support/yandex-360/customers/mail/en/mail-clients; OAuth:
	// yandex.com/dev/id/doc/en, scope mail:imap_full
	// (yandex.com/support/mail/mail-clients/others.html).
	{
		Name: "yandex", Title: "Yandex Mail",
		Protocol: "imap", Address: "imap.yandex.com:993",
		Logins: []string{AppPassword, Consent},
		OAuth: OAuth{
			AuthURL: "https://oauth.yandex.com/authorize", TokenURL: "https://oauth.yandex.com/token",
			Scopes: []string{"mail:imap_full"}, Basic: true,
		},
		XOAUTH2: true,
		Help:    "IMAP has to be allowed in Yandex Mail, All settings, Email clients, where app passwords are made, too.",
	},
	// help.mail.163.com: an authorization code takes the place of the password.
	// The server wants ID before SELECT, which postern sends.
	{
		Name: "netease", Title: "NetEase Mail (163.com)",
		Protocol: "imap", Address: "imap.163.com:993",
		Logins: []string{AppPassword},
		Help:   "NetEase wants an authorization code: 163.com, Settings, POP3/SMTP/IMAP, where IMAP has to be switched on, too. For other domains set address: imap.126.com:993 or imap.yeah.net:993.",
	},
	// proton.me/support/imap-smtp-and-pop3-setup and protonmail-bridge-install:
	// port 1143 on this machine, STARTTLS, a certificate of its own.
	{
		Name: "proton-bridge", Title: "Proton Mail Bridge",
		Protocol: "imap", Address: "127.0.0.1:1143", TLS: "starttls",
		Logins: []string{AppPassword},
		Help:   "Bridge shows its own password for every account, and its certificate under Settings, Export TLS certificates: name that file in ca_file. It has to run on this machine.",
	},
	// OpenID Connect Core 1.0 section 11: offline_access is ignored without
	// prompt=consent. RFC 6749 section 2.3.1: every server knows HTTP Basic.
	{
		Name: "generic", Title: "the mail server",
		Logins: []string{Password, AppPassword, Consent, ClientCredentials},
		OAuth: OAuth{
			Scopes:     []string{"openid", "offline_access"},
			Parameters: map[string]string{"prompt": "consent"},
			Basic:      true,
		},
	},
}

const microsoftHelp = "Exchange Online takes no passwords by IMAP: connect the account by consent, or give the application access to mailboxes. IMAP has to be on for the mailbox."

// entra is OAuth at one of Microsoft's clouds. Only work accounts can be read by
// an application in its own name.
func entra(login, resource, service, tenant string) OAuth {
	o := OAuth{
		AuthURL:   "https://" + login + "/{tenant}/oauth2/v2.0/authorize",
		TokenURL:  "https://" + login + "/{tenant}/oauth2/v2.0/token",
		DeviceURL: "https://" + login + "/{tenant}/oauth2/v2.0/devicecode",
		Scopes:    []string{"https://" + resource + "/IMAP.AccessAsUser.All", "offline_access"},
		Tenant:    tenant,
		Loopback:  "localhost",
	}
	if service != "" {
		o.ServiceScopes = []string{"https://" + service + "/.default"}
	}
	return o
}
