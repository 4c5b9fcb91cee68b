package main

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
	"postern/upstream/upstreamtest/private"
)

// TestClients lets POP3 programs that people use fetch mail from the gateway.
// Dovecot's own POP3 server passes the same tests: it shows that what they ask
// is what a POP3 server does.
func TestClients(t *testing.T) {
	d := dovecot.Start(t)
	users := dovecotAccounts(d)
	all := []clientTest{
		{"EveryMessageArrives", everyMessageArrives},
		{"LargeAndMany", largeAndMany},
		{"LeaveOnServer", leaveOnServer},
		{"Remove", remove},
		{"ConnectionLost", connectionLost},
		{"ClientKilled", clientKilled},
		{"WrongPassword", wrongPassword},
	}
	some := []clientTest{
		{"EveryMessageArrives", everyMessageArrives},
		{"Remove", remove},
	}
	for _, s := range []struct {
		name  string
		tests []clientTest
		open  func(t *testing.T) service
	}{
		{"Oracle", all, func(*testing.T) service { return nativePOP3(d) }},
		{"IMAP", some, func(t *testing.T) service {
			return gatewayTo(t, d, users, "protocol: imap, address: %q, tls: off", d.IMAP)
		}},
		{"IMAPWithSTARTTLS", some, func(t *testing.T) service {
			return gatewayTo(t, d, users, "protocol: imap, address: %q, tls: starttls, ca_file: %q", d.IMAP, d.CAFile)
		}},
		{"IMAPS", all, func(t *testing.T) service {
			return gatewayTo(t, d, users, "protocol: imap, address: %q, tls: implicit, ca_file: %q", d.IMAPS, d.CAFile)
		}},
		{"JMAP", all, func(t *testing.T) service {
			c := cyrus.Start(t)
			return gatewayTo(t, d, cyrusAccounts(c), "protocol: jmap, url: %q, ca_file: %q", c.JMAPS, c.CAFile)
		}},
		{"Accounts", append(some, clientTest{"LeaveOnServer", leaveOnServer}, clientTest{"WrongPassword", wrongPassword}),
			func(t *testing.T) service { return gatewayWithAccounts(t, d) }},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			to := s.open(t)
			for _, test := range s.tests {
				t.Run(test.name, func(t *testing.T) { test.run(t, to) })
			}
		})
	}
}

type clientTest struct {
	name string
	run  func(t *testing.T, s service)
}

// eachClient runs a test with every client there is.
func eachClient(t *testing.T, test func(t *testing.T, c client)) {
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			private.Program(t, c.program)
			test(t, c)
		})
	}
}

// to prepares a run of a client through a relay of its own.
func (s service) to(t testing.TB, a account, transport string, messages int) (run, *relay) {
	t.Helper()
	relay := newRelay(t, s.address[transport])
	return run{
		address:   relay.address,
		transport: transport,
		ca:        s.ca,
		user:      a.user,
		password:  a.password,
		messages:  messages,
		dir:       t.TempDir(),
	}, relay
}

// deliver adds letters from the first one to before the last.
func (a account) deliver(t testing.TB, first, last, size int) (raw []string) {
	t.Helper()
	for i := first; i < last; i++ {
		letter := upstreamtest.Letter(i, size)
		a.Deliver(t, letter)
		raw = append(raw, letter)
	}
	return raw
}

// holds checks what is in the mailbox.
func (a account) holds(t testing.TB, want []string) {
	t.Helper()
	same(t, "the mailbox holds", a.Messages(t), want)
}

// got checks what a client has stored, whatever names it gave the files.
func (c client) got(t testing.TB, dir string, raw []string) {
	t.Helper()
	var want []string
	for _, r := range raw {
		want = append(want, c.stores(r))
	}
	got := downloaded(t, dir)
	slices.Sort(got)
	slices.Sort(want)
	same(t, "the client has", got, want)
}

// same compares messages, and shows where the first difference is.
func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s %d messages, want %d", what, len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		g, w := got[i], want[i]
		if g == w {
			continue
		}
		at := 0
		for at < min(len(g), len(w)) && g[at] == w[at] {
			at++
		}
		t.Errorf("%s %q, %d octets; want %d; at octet %d: got %.70q, want %.70q",
			what, subject(w), len(g), len(w), at, g[at:], w[at:])
		return
	}
}

func subject(raw string) string {
	_, rest, _ := strings.Cut(raw, "Subject: ")
	subject, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSuffix(subject, "\r")
}

func everyMessageArrives(t *testing.T, s service) {
	eachClient(t, func(t *testing.T, c client) {
		t.Parallel()
		a := s.account(t)
		var raw []string
		for _, sample := range upstreamtest.Corpus() {
			if sample.Name != c.damages {
				a.Deliver(t, sample.Raw)
				raw = append(raw, sample.Raw)
			}
		}
		for _, transport := range c.transports {
			t.Run(transport, func(t *testing.T) {
				run, _ := s.to(t, a, transport, len(raw))
				c.fetched(t, run, raw)
			})
		}
		a.holds(t, raw)
	})
}

// fetched downloads, and checks that the client has exactly these messages.
func (c client) fetched(t testing.TB, r run, raw []string) {
	t.Helper()
	c.mustDownload(t, r)
	c.got(t, r.dir, raw)
}

var huge = sync.OnceValue(func() string { return upstreamtest.Letter(5000, 30<<20) })

func largeAndMany(t *testing.T, s service) {
	a := s.account(t)
	raw := a.deliver(t, 0, 1000, 700)
	a.Deliver(t, huge())
	raw = append(raw, huge())
	eachClient(t, func(t *testing.T, c client) {
		run, _ := s.to(t, a, implicit, len(raw))
		c.fetched(t, run, raw)
	})
}

// leaveOnServer: nothing is fetched twice.
func leaveOnServer(t *testing.T, s service) {
	eachClient(t, func(t *testing.T, c client) {
		if !c.remembers {
			t.Skip("it does not remember what it fetched")
		}
		t.Parallel()
		a := s.account(t)
		run, _ := s.to(t, a, plaintext, 5)
		raw := a.deliver(t, 0, 5, 700)
		c.fetched(t, run, raw)
		raw = append(raw, a.deliver(t, 5, 8, 700)...)
		c.fetched(t, run, raw)
		c.fetched(t, run, raw)
		a.holds(t, raw)
	})
}

// remove: exactly what was fetched goes. Mail that comes in while a client
// downloads stays.
func remove(t *testing.T, s service) {
	eachClient(t, func(t *testing.T, c client) {
		t.Parallel()
		a := s.account(t)
		raw := a.deliver(t, 0, 20, 8000)
		run, relay := s.to(t, a, plaintext, len(raw))
		run.remove = true
		late := upstreamtest.Letter(100, 700)
		relay.after(80_000, func() { a.Deliver(t, late) })
		c.mustDownload(t, run)
		relay.mustHaveCome(t)
		c.got(t, run.dir, raw)
		a.holds(t, []string{late})
	})
}

// removing prepares a run that is to fetch and remove ten messages.
func (s service) removing(t testing.TB) (a account, raw []string, r run, through *relay) {
	t.Helper()
	a = s.account(t)
	raw = a.deliver(t, 0, 10, 50_000)
	r, through = s.to(t, a, plaintext, len(raw))
	r.remove = true
	return a, raw, r, through
}

// midway is in the middle of the seventh of those messages, when DELE was sent
// for others.
const midway = 320_000

func connectionLost(t *testing.T, s service) {
	eachClient(t, func(t *testing.T, c client) {
		t.Parallel()
		a, raw, run, relay := s.removing(t)
		relay.after(midway, relay.cut)
		if o := c.start(t, run); c.done(o) {
			t.Errorf("%s reports success\n%s", c.name, o.output)
		}
		relay.mustHaveCome(t)
		c.finds(t, s, a, raw)
	})
}

func clientKilled(t *testing.T, s service) {
	eachClient(t, func(t *testing.T, c client) {
		t.Parallel()
		ctx, kill := context.WithCancel(t.Context())
		defer kill()
		ended := make(chan struct{})
		a, raw, run, relay := s.removing(t)
		relay.after(midway, func() { kill(); <-ended })
		run.context = ctx
		o := c.start(t, run)
		close(ended)
		if o.code != -1 {
			t.Errorf("%s: exit code %d before it was killed\n%s", c.name, o.code, o.output)
		}
		relay.mustHaveCome(t)
		c.finds(t, s, a, raw)
	})
}

// finds: the next session, with a client that knows nothing, finds everything,
// so the one before is over and has removed nothing.
func (c client) finds(t *testing.T, s service, a account, raw []string) {
	t.Helper()
	run, _ := s.to(t, a, plaintext, len(raw))
	c.fetched(t, run, raw)
	a.holds(t, raw)
}

func wrongPassword(t *testing.T, s service) {
	eachClient(t, func(t *testing.T, c client) {
		t.Parallel()
		a := s.account(t)
		raw := a.deliver(t, 0, 1, 700)
		run, _ := s.to(t, a, plaintext, 1)
		run.password = "open says me"
		if o := c.start(t, run); !c.refused(o) {
			t.Errorf("%s: exit code %d does not tell of a wrong password\n%s", c.name, o.code, o.output)
		}
		c.got(t, run.dir, nil)
		a.holds(t, raw)
	})
}
