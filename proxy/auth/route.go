package auth

import (
	"strings"

	"postern/proxy/pop3"
	"postern/upstream"
)

// A Route says where the maildrops of some accounts are.
type Route struct {
	User     string // pattern for the whole name; * is any run of characters, case does not count
	Upstream string // the upstream's name in the configuration
	Opener   upstream.Opener

	// Login is the template of the name at the upstream; empty is the name as
	// the client sends it. See Expand.
	Login string

	// AccountsOnly keeps passwords of strangers from the upstream: only those
	// who have an account get in.
	AccountsOnly bool
}

// account is whom the route takes a client for, if the upstream believes it.
func (r *Route) account(c pop3.Credentials) Account {
	a := Account{Upstream: r.Upstream, Opener: r.Opener, Login: Expand(r.Login, c.User), Password: c.Password}
	if c.Token.Reveal() != "" {
		a.Tokens = upstream.GivenToken{Secret: c.Token}
	}
	return a
}

// Expand makes the name at an upstream from the name of a client: {user} is all
// of that, {local} what is before its last @ or all of it, {domain} what is
// behind, perhaps nothing. It goes over the template once, so that a name that
// holds such words is just a name. An empty template is {user}.
func Expand(template, user string) string {
	if template == "" {
		return user
	}
	local, domain := user, ""
	if i := strings.LastIndexByte(user, '@'); i >= 0 {
		local, domain = user[:i], user[i+1:]
	}
	return strings.NewReplacer("{user}", user, "{local}", local, "{domain}", domain).Replace(template)
}

// routedTo is the maildrop that a name leads to if it is nobody's account.
func (g *Gate) routedTo(user string) maildrop {
	r := g.route(user)
	if r == nil || r.AccountsOnly {
		return maildrop{}
	}
	return r.account(pop3.Credentials{User: user}).maildrop()
}

// route returns the first route for a name, or nil.
func (g *Gate) route(user string) *Route {
	user = Fold(user)
	for i := range g.routes {
		if match(g.routes[i].User, user) {
			return &g.routes[i]
		}
	}
	return nil
}

// Fold is the one way to write a name: two that fold to the same are the same
// user's. It maps ASCII letters to lower case and leaves every other octet alone:
// more folding would let a name that only looks like another stand for it.
func Fold(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// match tells whether pattern, in which * is any run of octets, covers name. It
// remembers only the last star, so that no pattern takes long.
func match(pattern, name string) bool {
	p, n := 0, 0
	star, resume := -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			resume++
			p, n = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
