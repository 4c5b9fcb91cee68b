package config

import "fmt"

// The keys of a file, section by section.

func (c *Config) fields() []field {
	return []field{
		{"log", section(c.Log.fields())},
		{"limits", section(c.Limits.fields())},
		{"shutdown_timeout", into(&c.ShutdownTimeout, duration)},
		{"listeners", c.readListeners},
		{"admin", section(c.Admin.fields())},
		{"upstreams", c.readUpstreams},
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
	}
}

func (l *Listener) fields() []field {
	return []field{
		{"address", into(&l.Address, listenAddress)},
		{"tls", into(&l.TLS, oneOf(TLSOff, TLSSTLS, TLSImplicit))},
		{"certificate", into(&l.Certificate, text)},
		{"key", into(&l.Key, text)},
		{"plaintext_login", listInto(&l.PlaintextLogin, network)},
	}
}

func (a *Admin) fields() []field {
	return []field{
		{"address", into(&a.Address, listenAddress)},
	}
}

func (u *Upstream) fields() []field {
	all := append([]field{{"protocol", into(&u.Protocol, oneOf(IMAP, JMAP))}}, u.imapFields()...)
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
	}
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
		c.Upstreams = append(c.Upstreams, u)
	})
}

func (c *Config) readRoutes(v value) {
	v.list(func(item value) {
		var r Route
		item.mapping(r.fields()...)
		c.Routes = append(c.Routes, r)
	})
}

// item is where an item of a list stands in the file.
func item(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }
