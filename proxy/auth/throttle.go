package auth

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"postern/proxy/pop3"
)

// A throttle makes guessing slow. Refused credentials are counted for the
// account at the client's address, and for the address itself the accounts are
// counted; the larger number sets how long the next attempt waits before it
// begins. It waits before, not after: a client cannot save the time by hanging
// up.
//
// A password that was the last wrong one of this account from there counts no
// further: what goes on with it is a device, not somebody who guesses.
//
// Only refused credentials count, and those that there was no time to check. An
// upstream that is down refuses nobody.
type throttle struct {
	seed maphash.Seed

	mu       sync.Mutex
	failures *table[offender, failures]
}

// failures are how many there were, and the last of them.
type failures struct {
	n    int
	last guess
}

// An offender is an address with one account, or with any.
type offender struct {
	network netip.Prefix
	account uint64 // hash of its name; 0 for any
}

const (
	firstDelay   = 2 * time.Second
	longestDelay = 15 * time.Second

	failureLife  = 10 * time.Minute // after the last failure
	maxOffenders = 1 << 16
)

func newThrottle() *throttle {
	return &throttle{seed: maphash.MakeSeed(), failures: newTable[offender, failures](maxOffenders, failureLife)}
}

func (t *throttle) offenders(addr netip.Addr, account string) (all, one offender) {
	network := pop3.ClientNetwork(addr)
	return offender{network: network}, offender{network, maphash.String(t.seed, account) | 1}
}

// delay returns how long the next attempt has to wait.
func (t *throttle) delay(addr netip.Addr, account string) time.Duration {
	all, one := t.offenders(addr, account)
	t.mu.Lock()
	defer t.mu.Unlock()
	atAddress, _ := t.failures.get(all)
	atAccount, _ := t.failures.get(one)
	n := max(atAddress.n, atAccount.n)
	if n == 0 {
		return 0
	}
	return min(firstDelay<<min(n-1, 8), longestDelay)
}

// failed counts refused credentials: for the account unless they are the same as
// the last time, and for the address when the account is new there.
func (t *throttle) failed(addr netip.Addr, account string, g guess) {
	all, one := t.offenders(addr, account)
	t.mu.Lock()
	defer t.mu.Unlock()
	atAddress, _ := t.failures.get(all)
	atAccount, known := t.failures.get(one)
	if !known {
		atAddress.n++
	}
	if g == (guess{}) || g != atAccount.last {
		atAccount.n++
	}
	atAccount.last = g
	t.failures.put(one, atAccount)
	t.failures.put(all, failures{n: max(atAddress.n, 1)}) // the table may have dropped it alone
}

// succeeded takes back the failures of this account at this address, and no
// others: whoever has one account must not guess at others with a clean slate
// after each of their own logins.
func (t *throttle) succeeded(addr netip.Addr, account string) {
	all, one := t.offenders(addr, account)
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.failures.get(one); !known {
		return
	}
	t.failures.remove(one)
	if at, _ := t.failures.get(all); at.n > 1 {
		t.failures.put(all, failures{n: at.n - 1})
	} else {
		t.failures.remove(all)
	}
}
