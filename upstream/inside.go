package upstream

import "net/netip"

var (
	// sharedSpace is behind a carrier's address translation (RFC 6598), and has
	// a cloud's metadata service (100.100.100.200).
	sharedSpace = netip.MustParsePrefix("100.64.0.0/10")
	// thisNetwork reaches this very machine on many systems (RFC 1122 section 3.2.1.3).
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	// translated carries an IPv4 address in its last 32 bits (RFC 6052).
	translated = netip.MustParsePrefix("64:ff9b::/96")
)

// Inside tells whether an address belongs to this machine or its surroundings:
// loopback, private, and link-local, where clouds have their metadata services. A
// name that somebody outside has given must not lead there (CWE-918).
func Inside(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if translated.Contains(a) {
		last := a.As16()
		a = netip.AddrFrom4([4]byte(last[12:]))
	}
	return !a.IsGlobalUnicast() || a.IsPrivate() || sharedSpace.Contains(a) || thisNetwork.Contains(a)
}
