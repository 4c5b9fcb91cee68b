package upstreamtest

import "testing"

func TestMemory(t *testing.T) {
	Test(t, func(*testing.T) Fixture {
		m := NewMemory("bob", "secret")
		return Fixture{Opener: m, Account: m.Account(), Mailbox: m}
	})
}
