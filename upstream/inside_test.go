package upstream

import (
	"net/netip"
	"testing"
)

func TestInnerAddresses(t *testing.T) {
	for _, a := range []string{"127.0.0.1", "127.8.9.1", "::1", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "fe80::1",
		"fe80::1%eth0", "fc00::1", "fd12::1", "0.0.0.0", "0.1.2.3", "::", "100.64.0.1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1",
		"64:ff9b::a9fe:a9fe", "224.0.0.1", "ff02::1", "255.255.255.255", "fd00:ec2::254"} {
		if !Inside(netip.MustParseAddr(a)) {
			t.Errorf("%s is taken for one outside", a)
		}
	}
	for _, a := range []string{"192.0.2.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "64:ff9b::808:808", "::ffff:8.8.8.8"} {
		if Inside(netip.MustParseAddr(a)) {
			t.Errorf("%s is taken for one inside", a)
		}
	}
}
