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
		if err != nil || inner(at.Addr()) {
			return fmt.Errorf("%w: %s is at %s, inside this network: if that is right, set url to it", upstream.ErrRejected, host, address)
		}
		return nil
	}
}

var (
	// sharedSpace is behind a carrier's address translation (RFC 6598).
	sharedSpace = netip.MustParsePrefix("100.64.0.0/10")
	// thisNetwork reaches this very machine on many systems (RFC 1122 section 3.2.1.3).
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	// translated carries an IPv4 address in its last 32 bits (RFC 6052).
	translated = netip.MustParsePrefix("64:ff9b::/96")
)

// inner tells whether an address belongs to this machine or its surroundings:
// loopback, private, and link-local, where clouds have their metadata services.
func inner(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if translated.Contains(a) {
		last := a.As16()
		a = netip.AddrFrom4([4]byte(last[12:]))
	}
	return !a.IsGlobalUnicast() || a.IsPrivate() || sharedSpace.Contains(a) || thisNetwork.Contains(a)
}

// hostPart is the host of an address to dial.
func hostPart(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
