package pop3

import (
	"net/netip"
	"testing"
)

func TestClientNetwork(t *testing.T) {
	for _, c := range []struct{ addr, want string }{
		{"192.0.2.1", "192.0.2.1/32"},
		{"::ffff:192.0.2.1", "192.0.2.1/32"},
		{"2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"},
		{"fe80::1%eth0", "fe80::/64"},
	} {
		if got := ClientNetwork(netip.MustParseAddr(c.addr)).String(); got != c.want {
			t.Errorf("network of %s: got %s, want %s", c.addr, got, c.want)
		}
	}
	if got := ClientNetwork(netip.Addr{}); got != (netip.Prefix{}) {
		t.Errorf("network of no address: got %v, want none", got)
	}
}
