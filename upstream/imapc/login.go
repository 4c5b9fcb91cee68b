package imapc

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-sasl"

	"postern/upstream"
)

// open connects, logs in and selects the mailbox.
func (u *Upstream) open(ctx context.Context, account upstream.Account) (*conn, error) {
	c, err := u.login(ctx, account)
	if err != nil {
		return nil, err
	}
	if c.box, err = c.selectMailbox(ctx); err != nil {
		c.g.Close()
		return nil, err
	}
	return c, nil
}

// openToList is open, and has the listing on its way.
func (u *Upstream) openToList(ctx context.Context, account upstream.Account) (*conn, error) {
	if c := u.reopen(ctx, account); c != nil {
		return c, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	kept := u.kept(ctx, account.User)
	c, err := u.login(ctx, account)
	if err != nil {
		return nil, err
	}
	if err := c.selectToList(ctx, kept); err != nil {
		c.g.Close()
		return nil, err
	}
	if u.o.Warm > 0 {
		c.proof = u.o.Stable.proof(account)
	}
	return c, nil
}

// selectToList selects the mailbox and sends the command for the listing along.
func (c *conn) selectToList(ctx context.Context, kept *listing) (err error) {
	c.listing = c.newLister(kept)
	c.box, err = c.selectAnd(ctx, c.listedName(), c.listing)
	return err
}

// login connects and logs in.
func (u *Upstream) login(ctx context.Context, account upstream.Account) (_ *conn, err error) {
	began := time.Now()
	if hook := u.o.Hooks.LoggedIn; hook != nil {
		defer func() { hook(time.Since(began), err) }()
	}
	if account, err = withToken(ctx, account, upstream.Secret{}); err != nil {
		return nil, err
	}
	c, err := u.connect(ctx)
	if err != nil {
		return nil, err
	}
	err = c.login(ctx, account)
	if c.presumed == "" || err != nil {
		u.known.learn(c.before, err == nil)
	}
	if u.o.Warm > 0 && (err == nil || errors.Is(err, upstream.ErrAuth)) {
		u.o.Stable.judged(u, account, err == nil)
	}
	if errors.Is(err, upstream.ErrBusy) {
		u.o.Stable.makeRoom(u, account)
	}
	if err != nil {
		c.g.Close()
		return nil, err
	}
	if err := c.compress(ctx); err != nil {
		c.g.Close()
		return nil, err
	}
	if c.isNetEase() {
		c.identify(ctx, nil)
	}
	return c, nil
}

// login proves who we are. A token that is refused may have been withdrawn
// before its time: then another one is tried.
func (c *conn) login(ctx context.Context, account upstream.Account) error {
	err := c.prove(ctx, account)
	if account.Tokens == nil || !errors.Is(err, upstream.ErrAuth) {
		return err
	}
	other, failed := withToken(ctx, account, account.Password)
	if failed != nil {
		return fmt.Errorf("%s; another token: %w", printable([]byte(err.Error())), failed)
	}
	if other.Password == account.Password || c.g.broken() != nil {
		return err
	}
	return c.prove(ctx, other)
}

// prove logs in. The capabilities are those of the connection as it is now:
// what was said before TLS or before login counts for nothing after it.
func (c *conn) prove(ctx context.Context, account upstream.Account) error {
	defer c.during(ctx, c.answered())()
	doing := fmt.Sprintf("log in %q", account.User)
	if err := c.lib.WaitGreeting(); err != nil {
		return c.lost(doing, err)
	}
	c.before = c.lib.Caps()
	end := c.roundTrip()
	err := c.authenticate(account)
	end()
	if err != nil {
		var refusal *imap.Error
		if errors.As(err, &refusal) {
			s := statusOf(refusal)
			s.text = unsaid(s.text, account.Password.Reveal())
			if c.presumed != "" && !c.stillOffers() {
				return fmt.Errorf("%s: %w: the server takes logins in another way now: %w", doing, s, upstream.ErrUnavailable)
			}
			return refused(doing, s, upstream.ErrAuth)
		}
		if hasKind(err) {
			return fmt.Errorf("%s: %w", doing, err)
		}
		return c.lost(doing, err)
	}
	return c.relearn(doing)
}

// unsaid is a server's text without a secret that was sent: some repeat the
// command, which has it as it is, quoted, or in base64 together with the name.
func unsaid(text, secret string) string {
	if secret == "" {
		return text
	}
	quoted := quote(secret)
	text = strings.NewReplacer(quoted, "***", quoted[1:len(quoted)-1], "***", secret, "***").Replace(text)
	return base64Words.ReplaceAllStringFunc(text, func(word string) string {
		said, _ := base64.RawStdEncoding.DecodeString(strings.TrimRight(word, "=")) // as far as it is some
		if strings.Contains(string(said), secret) {
			return "***"
		}
		return word
	})
}

var base64Words = regexp.MustCompile(`[A-Za-z0-9+/]{4,}=*`)

// authenticate sends the credentials: a token by a mechanism for tokens, a
// password by LOGIN, or by AUTHENTICATE PLAIN where LOGIN is disabled or cannot
// carry it, as it is for ASCII only.
func (c *conn) authenticate(account upstream.Account) error {
	if account.Tokens != nil {
		return c.bear(account)
	}
	user, password := account.User, account.Password.Reveal()
	if strings.ContainsRune(user+password, 0) {
		return fmt.Errorf("a NUL in the credentials: %w", upstream.ErrAuth)
	}
	plain := c.before.Has("AUTH=PLAIN")
	disabled := c.before.Has(imap.CapLoginDisabled)
	switch {
	case plain && (disabled || !isASCII(user+password)):
		return c.lib.Authenticate(sasl.NewPlainClient("", user, password))
	case disabled:
		return fmt.Errorf("the server has disabled LOGIN and offers no AUTH=PLAIN: %w", upstream.ErrRejected)
	}
	return c.lib.Login(user, password).Wait()
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

// relearn asks for the capabilities after login, unless the server told them.
// The library would ask too, but at a time of its own.
func (c *conn) relearn(doing string) error {
	if _, code := c.g.said(); code == "CAPABILITY" {
		c.caps, c.told = c.lib.Caps(), true
		return nil
	}
	defer c.roundTrip()()
	caps, err := c.lib.Capability().Wait()
	if err != nil {
		var refusal *imap.Error
		if errors.As(err, &refusal) {
			return refused(doing, statusOf(refusal), upstream.ErrUnavailable)
		}
		return c.lost(doing, err)
	}
	c.caps = caps
	return nil
}

// netEase hosts refuse SELECT ("Unsafe Login") to a client that has not sent
// ID between login and SELECT, and not all of them advertise ID. Seen 2024.
var netEase = []string{"163.com", "126.com", "yeah.net", "188.com"}

func (c *conn) isNetEase() bool {
	name := strings.ToLower(host(c.o.Address))
	for _, domain := range netEase {
		if name == domain || strings.HasSuffix(name, "."+domain) {
			return true
		}
	}
	return false
}

// identify tells the server who we are and hands its answer to tell, which may
// be nil. Nothing depends on it: an error shows at the next command.
func (c *conn) identify(ctx context.Context, tell func(fields []byte)) {
	if !c.caps.Has(imap.CapID) && !c.isNetEase() {
		return
	}
	c.ask(ctx, c.answered(), c.identity(), func(line []byte) error {
		if fields, ok := bytes.CutPrefix(line, []byte("* ID ")); ok && tell != nil {
			tell(bytes.Clone(fields))
		}
		return nil
	})
}

// identity is the command that says who we are.
func (c *conn) identity() string {
	version := printable([]byte(c.o.Version))
	if version == "" {
		version = "unknown"
	}
	return `ID ("name" "postern" "version" ` + quote(version) + `)`
}

// quote makes a quoted string of printable text. RFC 9051 section 4.3.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
