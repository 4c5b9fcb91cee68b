package config

import (
	"fmt"

	"postern/upstream/provider"
)

// The keys of a file, section by section.

func (c *Config) fields() []field {
	return []field{
		{"log", section(c.Log.fields())},
		{"limits", section(c.Limits.fields())},
		{"shutdown_timeout", into(&c.ShutdownTimeout, duration)},
		{"listeners", c.readListeners},
		{"admin", section(c.Admin.fields())},
		{"consent", section(c.Consent.fields())},
		{"state", c.State.read},
		{"vault", section(c.Vault.fields())},
		{"upstreams", c.readUpstreams},
		{"accounts", c.readAccounts},
		{"routes", c.readRoutes},
	}
}

func (l *Log) fields() []field {
	return []field{
		{"level", into(&l.Level, oneOf("debug", "info", "warn", "error"))},
		{"format", into(&l.Format, oneOf("text", "json"))},
	}
}

func (l *Limits) fields() []field {
	return []field{
		{"connections", into(&l.Connections, count)},
		{"connections_per_address", into(&l.ConnectionsPerAddress, count)},
		{"login_timeout", into(&l.LoginTimeout, duration)},
		{"idle_timeout", into(&l.IdleTimeout, duration)},
		{"write_timeout", into(&l.WriteTimeout, duration)},
		{"errors", into(&l.Errors, count)},
		{"login_attempts", into(&l.LoginAttempts, count)},
		{"login_delay", into(&l.LoginDelay, durationOrNone)},
		{"warm_connections", into(&l.WarmConnections, count)},
	}
}

func (l *Listener) fields() []field {
	return []field{
		{"address", into(&l.Address, listenAddress)},
		{"name", into(&l.Name, hostName)},
		{"tls", into(&l.TLS, oneOf(TLSOff, TLSSTLS, TLSImplicit))},
		{"certificate", into(&l.Certificate, text)},
		{"key", into(&l.Key, text)},
		{"plaintext_login", listInto(&l.PlaintextLogin, network)},
		{"mechanisms", listInto(&l.Mechanisms, mechanism)},
		{"client_ca", into(&l.ClientCA, text)},
	}
}

func (a *Admin) fields() []field {
	return []field{
		{"address", into(&a.Address, listenAddress)},
	}
}

func (s *State) fields() []field {
	return []field{
		{"path", into(&s.Path, text)},
		{"removals_kept", into(&s.RemovalsKept, days)},
		{"cache", into(&s.Cache, size)},
	}
}

// read reads a mapping, or the word off.
func (s *State) read(v value) {
	v.offOr(&s.Off, s.fields())
}

func (u *Upstream) fields() []field {
	all := append([]field{
		{"provider", into(&u.Provider, oneOf(provider.Names()...))},
		{"protocol", into(&u.Protocol, oneOf(IMAP, JMAP))},
		{"oauth", u.OAuth.read},
	}, u.imapFields()...)
	all = append(all, u.jmapFields()...)
	return append(all,
		field{"ca_file", into(&u.CAFile, text)},
		field{"fingerprint", into(&u.Fingerprint, fingerprint)},
	)
}

func (u *Upstream) imapFields() []field {
	return []field{
		{"address", into(&u.Address, dialAddress)},
		{"tls", into(&u.TLS, oneOf(TLSImplicit, TLSStartTLS, TLSOff))},
		{"server_name", into(&u.ServerName, hostName)},
		{"max_message", into(&u.MaxMessage, size)},
		{"compress", into(&u.Compress, boolean)},
		{"insecure", into(&u.Insecure, boolean)},
	}
}

func (u *Upstream) jmapFields() []field {
	return []field{
		{"url", into(&u.URL, webAddress)},
		{"domain", into(&u.Domain, hostName)},
		{"credentials", into(&u.Credentials, oneOf(Basic, Bearer))},
		{"plain_http", into(&u.PlainHTTP, boolean)},
	}
}

func (r *Route) fields() []field {
	return []field{
		{"user", into(&r.User, text)},
		{"upstream", into(&r.Upstream, text)},
		{"login", into(&r.Login, oneOf(PassThrough, AccountsOnly))},
		{"upstream_user", into(&r.UpstreamUser, loginTemplate)},
		{"delete", into(&r.Delete, oneOf(DeleteExpunge, DeleteTrash, DeleteArchive, DeleteFlag, DeleteNever))},
		{"archive_folder", into(&r.ArchiveFolder, folder)},
		{"grace", into(&r.Grace, daysOrNone)},
		{"require_retr", into(&r.RequireRetr, boolean)},
		{"mark_seen", into(&r.MarkSeen, boolean)},
		{"expunge_if_alone", into(&r.ExpungeIfAlone, boolean)},
		{"uidl", r.readUIDL},
		{"warm", into(&r.Warm, warmth)},
		{"churn", r.Churn.read},
	}
}

func (r *Route) readUIDL(v value) {
	into(&r.UIDL, func(template string) (string, error) { return template, v.checkUIDL(template) })(v)
}

func (c *Churn) fields() []field {
	return []field{
		{"known", into(&c.Known, count)},
		{"gone_percent", into(&c.GonePercent, percent)},
		{"new_percent", into(&c.NewPercent, percent)},
	}
}

// read reads a mapping, or the word off.
func (c *Churn) read(v value) {
	v.offOr(&c.Off, c.fields())
}

func (c *Config) readListeners(v value) {
	v.list(func(item value) {
		l := Listener{TLS: TLSOff, PlaintextLogin: loopback()}
		item.mapping(l.fields()...)
		c.Listeners = append(c.Listeners, l)
	})
}

func (c *Config) readUpstreams(v value) {
	v.pairs(func(name string, item value) {
		u := Upstream{Name: name, TLS: TLSImplicit, MaxMessage: 4 << 30, Credentials: Basic}
		item.mapping(u.fields()...)
		u.fill(item.decoder, item.path)
		c.Upstreams = append(c.Upstreams, u)
	})
}

func (c *Config) readRoutes(v value) {
	v.list(func(item value) {
		r := defaultRoute()
		item.mapping(r.fields()...)
		c.Routes = append(c.Routes, r)
	})
}

// item is where an item of a list stands in the file.
func item(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }
