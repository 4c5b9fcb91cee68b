package main

import (
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"postern/cmd/internal/config"
	"postern/proxy"
	"postern/proxy/admin"
	"postern/proxy/metrics"
)

// listeners loads certificates, and lets metrics and status watch them.
func (g *gateway) listeners(c *config.Config, counts *metrics.Metrics) ([]proxy.Listener, error) {
	modes := map[string]proxy.TLSMode{
		config.TLSOff:      proxy.Off,
		config.TLSSTLS:     proxy.STLS,
		config.TLSImplicit: proxy.Implicit,
	}
	watched := map[string]bool{} // with port 0, several have one name
	var all []proxy.Listener
	for _, l := range c.Listeners {
		one := proxy.Listener{Address: l.Address, TLS: modes[l.TLS], PlaintextLogin: l.PlaintextLogin, Mechanisms: mechanisms(l)}
		if one.TLS != proxy.Off {
			var err error
			if one.Certificate, err = proxy.LoadCertificate(l.Certificate, l.Key, g.log); err != nil {
				return nil, err
			}
			if !watched[l.Address] {
				counts.Certificate(l.Address, one.Certificate.Expires)
				watched[l.Address] = true
			}
			if one.ClientCAs, err = clientCAs(l); err != nil {
				return nil, err
			}
		}
		all = append(all, one)
	}
	g.status.listeners = func() []admin.Listener { return shown(all) }
	return all, nil
}

// mechanisms are the ways to log in that a listener allows, in POP3's words.
func mechanisms(l config.Listener) []string {
	var all []string
	for _, m := range l.Mechanisms {
		all = append(all, strings.ToUpper(m))
		if m == config.LoginSCRAM {
			all = append(all, "SCRAM-SHA-256-PLUS")
		}
	}
	return all
}

// clientCAs are who certifies the clients of a listener; nil if nobody does.
func clientCAs(l config.Listener) (*x509.CertPool, error) {
	if l.ClientCA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(l.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("client_ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("client_ca %s: no certificate in it", l.ClientCA)
	}
	return pool, nil
}

// shown is what the status page shows of listeners.
func shown(listeners []proxy.Listener) []admin.Listener {
	var all []admin.Listener
	for _, l := range listeners {
		one := admin.Listener{Address: l.Address, TLS: l.TLS.String()}
		if l.Certificate != nil {
			one.CertificateExpires = l.Certificate.Expires()
		}
		all = append(all, one)
	}
	return all
}
