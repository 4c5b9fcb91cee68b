package imapc

import (
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"postern/upstream"
)

// What servers answer to LOGIN, and what it means. A client forgets its
// password over ErrAuth: only a refusal of the password may be one.
func TestLoginRefusals(t *testing.T) {
	for answer, want := range map[string]error{
		"NO [AUTHENTICATIONFAILED] Authentication failed.":        upstream.ErrAuth,
		"NO [authenticationfailed] no":                            upstream.ErrAuth,
		"NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)": upstream.ErrAuth,
		"NO LOGIN failed.":                                        upstream.ErrAuth,
		"NO":                                                      upstream.ErrAuth,
		"NO [ALERT] Application-specific password required: https://support.google.com (Failure)": upstream.ErrAuth,
		"NO [UNAVAILABLE] Temporary authentication failure.":                                      upstream.ErrUnavailable,
		"NO [SERVERBUG] Internal error occurred.":                                                 upstream.ErrUnavailable,
		"NO Temporary authentication failure.":                                                    upstream.ErrUnavailable,
		"NO Service unavailable":                                                                  upstream.ErrUnavailable,
		"NO [INUSE] Account is in use":                                                            upstream.ErrBusy,
		"NO [LIMIT] Too much":                                                                     upstream.ErrBusy,
		"NO [ALERT] Too many simultaneous connections. (Failure)":                                 upstream.ErrBusy,
		"NO [UNAVAILABLE] Maximum number of connections from user+IP exceeded":                    upstream.ErrBusy,
		"NO [LIMIT] LOGIN Rate limit hit.":                                                        upstream.ErrTooSoon,
		"NO 451 Already reached per-10 minute limit for logins of 500":                            upstream.ErrTooSoon,
		"NO Request is throttled. Suggested Backoff Time: 299910 milliseconds":                    upstream.ErrUnavailable,
		"BAD Request is throttled. Suggested Backoff Time: 299910 milliseconds":                   upstream.ErrUnavailable,
		"BAD User is authenticated but not connected.":                                            upstream.ErrRejected,
		"NO [ALERT] Your account is not enabled for IMAP use. (Failure)":                          upstream.ErrRejected,
		"NO IMAP access is disabled for this user":                                                upstream.ErrRejected,
		"NO [WEBALERT https://accounts.google.com/] Web login required.":                          upstream.ErrRejected,
		"NO [PRIVACYREQUIRED] Plaintext authentication disallowed":                                upstream.ErrRejected,
		"NO [AUTHORIZATIONFAILED] not yours":                                                      upstream.ErrRejected,
		"NO [CONTACTADMIN] call":                                                                  upstream.ErrRejected,
		"NO [EXPIRED] That password has expired":                                                  upstream.ErrRejected,
		"NO [REFERRAL imap://user;AUTH=*@evil.example.org/] Go there":                             upstream.ErrRejected,
		"NO [WHATEVER] no":                       upstream.ErrUnavailable,
		"BAD LOGIN bob " + password + " unknown": upstream.ErrUnavailable,
		"BAD Command unknown":                    upstream.ErrUnavailable,
		"BYE":                                    upstream.ErrUnavailable,
		"BYE Too many connections from your address": upstream.ErrBusy,
		"BYE [UNAVAILABLE] \x1b[31m\r\n":             upstream.ErrUnavailable,
	} {
		t.Run(answer, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.fault = onCommand("LOGIN", func(c *fakeConn) bool {
					if strings.HasPrefix(answer, "BYE") {
						c.say("* %s", answer)
						return drop(c)
					}
					c.say("%s %s", c.tag, answer)
					return true
				})
				_, err := f.upstream().Open(t.Context(), f.account())
				wantError(t, "open", err, want)
				if want != upstream.ErrAuth && errors.Is(err, upstream.ErrAuth) {
					t.Errorf("%v is ErrAuth too", err)
				}
				if text := err.Error(); strings.Contains(text, password) || strings.ContainsAny(text, "\r\n\x1b") || len(text) > 500 {
					t.Errorf("an error unfit for a log: %q", text)
				}
				if f.connections != 1 {
					t.Errorf("%d connections: a refusal was tried again, or a referral followed", f.connections)
				}
			})
		})
	}
}

func TestSelectRefusals(t *testing.T) {
	for answer, want := range map[string]error{
		"NO [NONEXISTENT] no such mailbox":                                upstream.ErrRejected,
		"NO [NOPERM] not yours":                                           upstream.ErrRejected,
		"NO SELECT Unsafe Login. Please contact kefu@188.com for help":    upstream.ErrRejected,
		"BAD User is authenticated but not connected.":                    upstream.ErrRejected,
		"BAD User is authenticated but not connected. Request throttled.": upstream.ErrUnavailable,
		"NO no":                     upstream.ErrUnavailable,
		"NO [UNAVAILABLE] later":    upstream.ErrUnavailable,
		"OK [UIDVALIDITY x] fine":   nil,
		"OK [READ-WRITE":            nil,
		"NO [INUSE] somebody is in": upstream.ErrBusy,
	} {
		t.Run(answer, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.fault = onCommand("SELECT", func(c *fakeConn) bool { c.say("* 4 EXISTS\r\n%s %s", c.tag, answer); return true })
				d, err := f.upstream().Open(t.Context(), f.account())
				wantError(t, "open", err, want)
				if err == nil {
					d.Close()
				}
			})
		})
	}
}

// Quirks of SELECT that the library would give up over.
func TestSelectForgivesWhatItDoesNotNeed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.uidValidity = "77] ok\r\n* OK [HIGHESTMODSEQ -1] Zoho\r\n*  4 EXISTS\r\n* OK [PERMANENTFLAGS (\\*] oh\r\n* XFOO bar\r\n* OK [MAILBOXID (x"
		d := f.list()
		wantWhole(t, d, 3, f.messages[3].raw)
	})
}

// The first words that a server sees of each way to log in.
func TestHowCredentialsAreSent(t *testing.T) {
	plain := func(user, password string) string {
		return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
	}
	for name, c := range map[string]struct {
		caps, user, password string
		want                 []string
	}{
		"ASCII":          {"IMAP4rev1 AUTH=PLAIN SASL-IR", "bob", "secret", []string{`LOGIN "bob" "secret"`}},
		"quotes":         {"IMAP4rev1", `b"o b`, `\"{5}`, []string{`LOGIN "b\"o b" "\\\"{5}"`}},
		"line ends":      {"IMAP4rev1", "bob", "a\r\nT1 DELETE INBOX", []string{`LOGIN "bob" {18}`}},
		"non-ASCII":      {"IMAP4rev1 AUTH=PLAIN SASL-IR", "bob", "grüße", []string{"AUTHENTICATE PLAIN " + plain("bob", "grüße")}},
		"no SASL-IR":     {"IMAP4rev1 AUTH=PLAIN", "bob", "grüße", []string{"AUTHENTICATE PLAIN"}},
		"8-bit":          {"IMAP4rev1 IMAP4rev2 AUTH=PLAIN SASL-IR", "bob", "\xff", []string{"AUTHENTICATE PLAIN " + plain("bob", "\xff")}},
		"LOGINDISABLED":  {"IMAP4rev1 LOGINDISABLED AUTH=PLAIN SASL-IR", "bob", "secret", []string{"AUTHENTICATE PLAIN " + plain("bob", "secret")}},
		"no way":         {"IMAP4rev1 LOGINDISABLED AUTH=CRAM-MD5", "bob", "secret", nil},
		"NUL":            {"IMAP4rev1 AUTH=PLAIN", "bob", "a\x00b", nil},
		"no PLAIN":       {"IMAP4rev1", "bob", "grüße", []string{`LOGIN "bob" {7}`}},
		"caps in answer": {"IMAP4rev1", "", "", []string{`LOGIN "" ""`}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fake) {
				f.caps = c.caps
				var saw []string
				f.fault = func(conn *fakeConn, command string) bool {
					if !strings.HasPrefix(command, "LOGIN") && !strings.HasPrefix(command, "AUTH") {
						return false
					}
					saw = append(saw, command)
					switch {
					case strings.HasSuffix(command, "}"):
						conn.say("+ go on")
						size, _ := literalMark([]byte(command))
						io.CopyN(io.Discard, conn.r, size)
						conn.line()
					case command == "AUTHENTICATE PLAIN":
						conn.say("+ ")
						if line, _ := conn.line(); line != plain(c.user, c.password) {
							t.Errorf("%q after the continuation", line)
						}
					}
					conn.say("%s NO [AUTHENTICATIONFAILED] no", conn.tag)
					return true
				}
				_, err := f.upstream().Open(t.Context(), upstream.Account{User: c.user, Password: upstream.NewSecret(c.password)})
				want := upstream.ErrAuth
				if name == "no way" {
					want = upstream.ErrRejected
				}
				wantError(t, "open", err, want)
				if !slices.Equal(saw, c.want) {
					t.Errorf("sent %q, want %q", saw, c.want)
				}
			})
		})
	}
}

// What a server repeats of the command is not told with the credentials in it.
func TestRepeatedCredentials(t *testing.T) {
	secret := upstream.NewSecret(`a"secret\of-ann`)
	token := upstream.NewSecret("token-of-ann")
	for caps, a := range map[string]upstream.Account{
		"IMAP4rev1": {User: "ann", Password: secret},
		"IMAP4rev1 LOGINDISABLED AUTH=PLAIN SASL-IR": {User: "ann", Password: secret},
		"IMAP4rev1 AUTH=XOAUTH2 SASL-IR":             {User: "ann", Tokens: upstream.GivenToken{Secret: token}},
		"IMAP4rev1 AUTH=OAUTHBEARER SASL-IR":         {User: "ann", Tokens: upstream.GivenToken{Secret: token}},
	} {
		bubble(t, func(t *testing.T, f *fake) {
			f.caps = caps
			said := ""
			f.fault = func(conn *fakeConn, command string) bool {
				if !strings.HasPrefix(command, "LOGIN") && !strings.HasPrefix(command, "AUTH") {
					return false
				}
				said = command
				conn.say("%s BAD unknown: %s", conn.tag, command)
				return true
			}
			_, err := f.upstream().Open(t.Context(), a)
			words := strings.Fields(said)
			last := strings.Trim(words[len(words)-1], `"`)
			if err == nil || strings.Contains(err.Error(), last) || strings.Contains(err.Error(), "of-ann") || !strings.Contains(err.Error(), "unknown: "+words[0]) {
				t.Errorf("%s: got %v, want what the server says without %q", caps, err, last)
			}
		})
	}
}

// Capabilities differ before and after login (Microsoft 365), whether the
// server tells them or has to be asked.
func TestCapabilitiesAreThoseAfterLogin(t *testing.T) {
	for _, code := range []string{"[CAPABILITY IMAP4rev1 UIDPLUS] ", "[CAPABILITY IMAP4rev1 " + strings.Repeat("X-LONG ", 200) + "UIDPLUS] ", "", "[ALERT] "} {
		bubble(t, func(t *testing.T, f *fake) {
			f.caps = "IMAP4rev1"
			f.code = code
			f.fault = onCommand("LOGIN", func(*fakeConn) bool { f.mu.Lock(); f.caps = "IMAP4rev1 UIDPLUS"; f.mu.Unlock(); return false })
			d := f.list()
			if err := d.Removable(0); err != nil {
				t.Errorf("%.30q: %v", code, err)
			}
		})
		bubble(t, func(t *testing.T, f *fake) {
			f.caps = "IMAP4rev1 UIDPLUS"
			f.code = strings.ReplaceAll(code, "UIDPLUS", "IDLE")
			f.fault = onCommand("LOGIN", func(*fakeConn) bool { f.mu.Lock(); f.caps = "IMAP4rev1"; f.mu.Unlock(); return false })
			d := f.list()
			wantError(t, "removable", d.Removable(0), upstream.ErrRejected)
		})
	}
}

// An answer to ID poisons the library's errors, so it must not see one.
func TestIDThenNetworkError(t *testing.T) {
	bubble(t, func(t *testing.T, f *fake) {
		f.caps += " ID"
		d := f.list()
		f.fault = func(c *fakeConn, command string) bool { return drop(c) }
		_, err := d.Fetch(t.Context(), 0)
		if err == nil || strings.Contains(err.Error(), "expected") {
			t.Errorf("%v", err)
		}
	})
}

func TestIDIsSentBetweenLoginAndSelect(t *testing.T) {
	for host, caps := range map[string]string{"imap.163.com:993": "IMAP4rev1", "imap.example.org:993": "IMAP4rev1 ID"} {
		for _, answer := range []string{"OK", "NO", "BAD"} {
			bubble(t, func(t *testing.T, f *fake) {
				f.caps, f.options.Address, f.options.Version = caps, host, "1.0 \"x\"\r\n"
				f.fault = onCommand("ID", func(c *fakeConn) bool { c.say("* ID NIL\r\n%s %s done", c.tag, answer); return true })
				f.open()
				all := slices.DeleteFunc(f.sent(""), func(c string) bool { return c == "CAPABILITY" })
				at := slices.Index(all, `ID ("name" "postern" "version" "1.0 \"x\"??")`)
				if at < 0 || !strings.HasPrefix(all[at+1], "SELECT") {
					t.Errorf("%s: sent %q", host, all)
				}
			})
		}
	}
	bubble(t, func(t *testing.T, f *fake) {
		f.options.Address = "imap.not163.com:993"
		f.open()
		if got := f.sent("ID"); got != nil {
			t.Errorf("sent %q", got)
		}
	})
}

// A server that knows IMAP4rev1 and rev2 expects modified UTF-7 until rev2 is
// enabled; the library would send UTF-8.
func TestMailboxNameOnADualServer(t *testing.T) {
	for caps, want := range map[string]string{
		"IMAP4rev1":           `SELECT "Entw&APw-rfe \"&-\" &2D3eAA-"`,
		"IMAP4rev1 IMAP4rev2": `SELECT "Entw&APw-rfe \"&-\" &2D3eAA-"`,
		"IMAP4rev2":           `SELECT "Entwürfe \"&\" 😀"`,
	} {
		bubble(t, func(t *testing.T, f *fake) {
			f.caps, f.options.Mailbox = caps, "Entwürfe \"&\" 😀"
			u := f.upstream()
			c, err := u.login(t.Context(), f.account())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.selectMailbox(t.Context()); err != nil {
				t.Error(err)
			}
			if got := f.sent("SELECT"); !slices.Equal(got, []string{want}) {
				t.Errorf("%s: sent %q, want %q", caps, got, want)
			}
			synctest.Wait()  // for the CAPABILITY that the library sends when it likes
			f.commands = nil // a quoted name is not one that checkWire reads
			c.logout()
		})
	}
}

func TestPrintable(t *testing.T) {
	if got := printable([]byte("a\r\n\x1b[31m\xff" + strings.Repeat("x", 500))); len(got) != 200 || !strings.HasPrefix(got, "a???[31m?x") {
		t.Errorf("%q", got)
	}
}
