package pop3

import "net/netip"

// ClientNetwork is what counts as one client where clients are limited: an IPv4
// address, or the /64 that an IPv6 host picks its addresses from. The zero
// Addr has the zero Prefix.
func ClientNetwork(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}
