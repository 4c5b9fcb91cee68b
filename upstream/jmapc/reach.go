package jmapc

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"postern/upstream"
)

// configuredHost is the host that the configuration names, whose address is
// nobody's business. Every other host that is asked was named by DNS or by a
// server.
func (o Options) configuredHost() string {
	if o.URL == "" {
		return strings.ToLower(hostOf(o.Domain))
	}
	if at, err := url.Parse(o.URL); err == nil {
		return strings.ToLower(at.Hostname())
	}
	return ""
}

// control returns what refuses, once a name is resolved and for each of its
// addresses, one that lies inside this network: whoever can answer for a name
// outside, or redirect, must not choose what in here is talked to (CWE-918).
func (d dialer) control(host string) func(network, address string, _ syscall.RawConn) error {
	if strings.EqualFold(host, d.configured) {
		return nil
	}
	return func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || upstream.Inside(at.Addr()) {
			return fmt.Errorf("%w: %s is at %s, inside this network: if that is right, set url to it", upstream.ErrRejected, host, address)
		}
		return nil
	}
}

// hostPart is the host of an address to dial.
func hostPart(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
