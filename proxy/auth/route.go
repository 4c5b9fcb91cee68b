package auth

import (
	"strings"

	"postern/upstream"
)

// A Route says where the maildrops of some accounts are.
type Route struct {
	User     string // pattern for the whole name; * is any run of characters, case does not count
	Upstream string // the upstream's name in the configuration
	Opener   upstream.Opener
}

// route returns the first route for a name, or nil.
func (g *Gate) route(user string) *Route {
	user = fold(user)
	for i := range g.routes {
		if match(g.routes[i].User, user) {
			return &g.routes[i]
		}
	}
	return nil
}

// accountName names a maildrop, the same for every way to write the user's name.
func accountName(upstreamName, user string) string { return upstreamName + "\x00" + fold(user) }

// fold maps ASCII letters to lower case and leaves every other octet alone: more
// folding would let a name that only looks like another stand for it.
func fold(s string) string {
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
