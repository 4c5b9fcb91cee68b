package main

import (
	"crypto/tls"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"postern/cmd/internal/config"
)

// A server is one listener, as the settings of mail clients call it.
type server struct{ name, port, security string }

// servers are the listeners, the best protected first.
func servers(c *config.Config) []server {
	words := map[string]string{config.TLSImplicit: "SSL/TLS", config.TLSSTLS: "STARTTLS", config.TLSOff: "no encryption"}
	var all []server
	for _, mode := range []string{config.TLSImplicit, config.TLSSTLS, config.TLSOff} {
		for _, l := range c.Listeners {
			if _, port, err := net.SplitHostPort(l.Address); err == nil && l.TLS == mode {
				all = append(all, server{hostOf(c, l), port, words[mode]})
			}
		}
	}
	return all
}

// hostOf is what clients have to call a listener: as the configuration says, or
// by the name in its certificate, or by its address, unless that is every one of
// this machine: then as browsers call it, if they do.
func hostOf(c *config.Config, l config.Listener) string {
	if l.Name != "" {
		return l.Name
	}
	if pair, err := tls.LoadX509KeyPair(l.Certificate, l.Key); l.TLS != config.TLSOff && err == nil {
		for _, name := range pair.Leaf.DNSNames {
			if !strings.HasPrefix(name, "*") {
				return name
			}
		}
	}
	host, _, err := net.SplitHostPort(l.Address)
	if a, addrErr := netip.ParseAddr(host); err == nil && host != "" && (addrErr != nil || !a.IsUnspecified()) {
		return host
	}
	if public, err := url.Parse(c.Consent.PublicURL); err == nil && public.Host != "" {
		return public.Hostname()
	}
	name, err := os.Hostname()
	if err != nil {
		return "this machine"
	}
	return name
}
