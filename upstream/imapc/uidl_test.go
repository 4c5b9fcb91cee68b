package imapc

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"postern/upstream"
	"postern/upstream/upstreamtest"
	"postern/upstream/upstreamtest/cyrus"
	"postern/upstream/upstreamtest/dovecot"
)

func mustUIDL(t *testing.T, form string) UIDL {
	t.Helper()
	u, err := ParseUIDL(form)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// UW by what Dovecot's documentation of pop3_uidl_format says of its form, as
// does the long form of names, which Dovecot has since 2.4. All others are
// compared with real servers below; but for Courier, whose server issued these
// strings.
func TestUIDLForms(t *testing.T) {
	const validity, uid = 1791830012, 2748
	for form, want := range map[string]string{
		"":              "1791830012.2748",
		"postern":       "1791830012.2748",
		"dovecot":       "00000abc6acd27fc",
		"dovecot-0.99":  "1791830012.2748",
		"cyrus":         "1791830012.2748",
		"cyrus-uid":     "2748",
		"cyrus-courier": "1791830012-2748",
		"courier":       "UID2748-1791830012",
		"courier-1":     "UID2748",
		"uw":            "6acd27fc00000abc",

		"%u":                                     "2748",
		"%v-%u":                                  "1791830012-2748",
		"%Xu":                                    "abc",
		"%XUu":                                   "ABC",
		"%UXu":                                   "abc",
		"%XULu":                                  "abc",
		"%XUv%Xu":                                "6ACD27FCabc",
		"%Ru":                                    "8472",
		"%RRu":                                   "2748",
		"%XRu":                                   "cba",
		"%06u":                                   "002748",
		"%02u":                                   "2748",
		"a%u%%b":                                 "a2748%b",
		"%u.%Lu":                                 "2748.2748",
		"%{uid | hex(8)}%{uidvalidity | hex(8)}": "00000abc6acd27fc",
		"%{uidvalidity}.%{uid}":                  "1791830012.2748",
		"%08X{uid}":                              "00000abc",
		"%{uid|hex|upper|lower|upper}":           "ABC",
		"%{uid|reverse}":                         "8472",
	} {
		u, err := ParseUIDL(form)
		if err != nil {
			t.Errorf("%q: %v", form, err)
			continue
		}
		if got := u.Of(validity, uid); got != want {
			t.Errorf("%q: %s, want %s", form, got, want)
		}
	}
}

func TestUIDLFormsThatAreRefused(t *testing.T) {
	for form, want := range map[string]string{
		"exim":                         "neither a template nor one of courier, courier-1, cyrus, cyrus-courier, cyrus-uid, dovecot, dovecot-0.99, postern, uw",
		"%v":                           "all messages would have one unique-id",
		"%%":                           "all messages would have one unique-id",
		"%u %v":                        "octet 0x20",
		"%u\x7f":                       "octet 0x7f",
		"%u\r\n":                       "octet 0x0d",
		"%uü":                          "octet 0xc3",
		"%u" + strings.Repeat("x", 61): "71 octets, which is over 70",
		"%071u":                        "width 071 is more than 70",
		"%099999999999999999999u":      "is more than 70",
		"%4u":                          "would cut numbers off",
		"%2.4u":                        "would cut numbers off",
		"%0R4u":                        "%4 is not known",
		"%08Ru":                        "would make UIDs 1 and 10 one",
		"%m":                           "%m is not known",
		"%Mu":                          "%M is not known",
		"%\x01u":                       "%? is not known",
		"%":                            "a % without its letter",
		"%08X":                         "a % without its letter",
		"%RXu":                         "modifier X must come first",
		"%XXu":                         "modifier X must come first",
		"%{guid}":                      "%{guid} is not known",
		"%{uid":                        "%{ without }",
		"%{uid | md5}":                 `"md5" is not known`,
		"%{uid | hex(4)}":              "numbers would be cut off",
		"%{uid | hex(x)}":              "numbers would be cut off",
		"%{uid | reverse | hex}":       "modifier X must come first",
	} {
		u, err := ParseUIDL(form)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprintf("%q", form)) {
			t.Errorf("%q: %v, %v; want an error that says %q", form, u, err, want)
		}
	}
}

// Whatever is accepted is a unique-id, and no two of a mailbox are the same.
func TestUIDLFormsAreUnique(t *testing.T) {
	part := rapid.SampledFrom([]string{"%u", "%v", "%Xu", "%XUv", "%Ru", "%XRu", "%RXv", "%05u", "%05Ru", "%012v", "%{uid|hex(8)}", "1", "0", "a", ".", "%%"})
	uid := rapid.Uint32Min(1)
	rapid.Check(t, func(r *rapid.T) {
		form := strings.Join(rapid.SliceOfN(part, 1, 5).Draw(r, "parts"), "")
		u, err := ParseUIDL(form)
		if err != nil {
			r.Skip(err)
		}
		validity, a, b := rapid.Uint32().Draw(r, "UIDVALIDITY"), uid.Draw(r, "a"), uid.Draw(r, "b")
		if rapid.Bool().Draw(r, "near") {
			b = a / 10
		}
		one, other := u.Of(validity, a), u.Of(validity, b)
		if a != b && one == other {
			r.Errorf("%q: UIDs %d and %d are both %s", form, a, b, one)
		}
		for k := range len(one) {
			if one[k] <= ' ' || one[k] > '~' || len(one) > maxUIDL {
				r.Errorf("%q: UID %d is %q", form, a, one)
			}
		}
	})
}

func TestUIDLCostsNoMemory(t *testing.T) {
	l := &listing{uidValidity: 1791830012, uidl: mustUIDL(t, "dovecot"), entries: []uint64{2748 << 32}}
	dst := make([]byte, 0, maxUIDL)
	if n := testing.AllocsPerRun(100, func() { l.AppendUIDL(dst, 0) }); n > 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// issued returns the unique-ids that a POP3 server gives out.
func issued(t *testing.T, address, user, password string) (all []string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(conn)
	for _, command := range []string{"", "USER " + user, "PASS " + password, "UIDL"} {
		if command != "" {
			fmt.Fprintf(conn, "%s\r\n", command)
		}
		if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
			t.Fatalf("%.4s: %q %v", command, line, err)
		}
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line = strings.TrimSuffix(line, "\r\n"); line == "." {
			return all
		}
		_, uidl, _ := strings.Cut(line, " ")
		all = append(all, uidl)
	}
}

// shown returns the unique-ids that the adapter gives out.
func shown(t *testing.T, u *Upstream, account upstream.Account) (all []string) {
	t.Helper()
	d, err := u.Open(t.Context(), account)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range l.Len() {
		all = append(all, string(l.AppendUIDL(nil, i)))
	}
	return all
}

// What Dovecot's own POP3 server has issued for a mailbox, the adapter issues.
func TestUIDLsAreThoseOfDovecot(t *testing.T) {
	for form, format := range map[string]string{
		"dovecot":       "", // its default
		"dovecot-0.99":  "%v.%u",
		"cyrus":         "%v.%u",
		"cyrus-uid":     "%u",
		"cyrus-courier": "%v-%u",
		"courier":       "UID%u-%v",
		"courier-1":     "UID%u",
		"uw":            "%08Xv%08Xu",

		"%08Xu%08Xv": "%08Xu%08Xv",
		"%XUv.%XUu":  "%XUv.%XUu",
		"%Xv.%XLUu":  "%Xv.%XLUu",
		"%Rv.%Ru":    "%Rv.%Ru",
		"%XRv.%u":    "%XRv.%u",
		"%012u":      "%012u",
		"%02v.%03u":  "%02v.%03u",
		"x%%%u":      "x%%%u",
	} {
		t.Run(form, func(t *testing.T) {
			var config []string
			if format != "" {
				config = []string{"pop3_uidl_format = " + format}
			}
			server := dovecot.Start(t, config...)
			mailbox := server.AddUser(t, "bob", "secret")
			mailbox.SetUIDValidity(t, 3735928559)
			for i := range 12 {
				mailbox.Deliver(t, upstreamtest.Letter(i, 100))
			}
			mailbox.Do(t, `UID STORE 2,4:9 +FLAGS (\Deleted)`)
			mailbox.Do(t, "UID EXPUNGE 2,4:9")
			want := issued(t, server.POP3, "bob", "secret")
			got := shown(t, New(Options{Address: server.IMAP, TLS: TLSOff, UIDL: mustUIDL(t, form)}), mailbox.Account())
			if len(want) != 5 || !slices.Equal(got, want) {
				t.Errorf("shown %q, Dovecot has issued %q", got, want)
			}
		})
	}
}

// The four forms of Cyrus.
func TestUIDLsAreThoseOfCyrus(t *testing.T) {
	for format, form := range map[string]string{
		"uidonly": "cyrus-uid",
		"cyrus":   "cyrus",
		"dovecot": "dovecot",
		"courier": "cyrus-courier",
	} {
		t.Run(format, func(t *testing.T) {
			server := cyrus.Start(t, "uidl_format: "+format)
			mailbox := server.AddUser(t, "bob", "secret")
			for i := range 12 {
				mailbox.Deliver(t, upstreamtest.Letter(i, 100))
			}
			mailbox.Take(t, upstreamtest.Letter(3, 100))
			want := issued(t, server.POP3, "bob", "secret")
			got := shown(t, New(Options{Address: server.IMAP, TLS: TLSOff, UIDL: mustUIDL(t, form)}), mailbox.Account())
			if len(want) != 11 || !slices.Equal(got, want) {
				t.Errorf("shown %q, Cyrus has issued %q", got, want)
			}
		})
	}
}
