package pop3

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"
)

// A state of the session (RFC 1939 section 3). There is none for UPDATE: it
// lasts as long as the QUIT that enters it.
type state uint8

const (
	authorization state = 1 << iota
	transaction
)

// What a command takes after its name.
type argument uint8

const (
	none     argument = iota
	optional          // surrounding spaces do not matter
	required          // surrounding spaces do not matter
	verbatim          // required, and all that follows one space is part of it
)

// A command is one line of the command table.
type command struct {
	name      string
	states    state
	arg       argument
	run       func(s *session, ctx context.Context, arg string) (reply, error)
	maxOctets int  // of the line
	loggable  bool // the argument holds no secret

	// refuse says why the command is of no use now, on this connection; nil
	// where it always is. CAPA does not announce what is refused.
	refuse func(*session) error
	// capability announces the command in CAPA, in both states: some clients
	// ask before the login only. Empty for what needs no announcing.
	capability string
	arguments  func(*session) []string // of the capability; may be nil
}

// commands is the table of all there are, in the order of CAPA. It is filled
// in by init, since CAPA reads it.
var commands []*command

// unknown stands for every other command.
var unknown = &command{
	name:      "unknown",
	states:    authorization | transaction,
	arg:       optional,
	maxOctets: maxCommandOctets,
	run: func(*session, context.Context, string) (reply, error) {
		return reply{}, refusef("command not supported")
	},
}

func init() {
	const both = authorization | transaction
	commands = []*command{
		{name: "CAPA", states: both, run: (*session).capa},
		{name: "STAT", states: transaction, run: (*session).stat},
		{name: "LIST", states: transaction, arg: optional, run: (*session).list, loggable: true},
		{name: "RETR", states: transaction, arg: required, run: (*session).retr, loggable: true},
		{name: "DELE", states: transaction, arg: required, run: (*session).dele, loggable: true},
		{name: "NOOP", states: transaction, run: (*session).noop},
		{name: "RSET", states: transaction, run: (*session).rset},
		{name: "QUIT", states: both, run: (*session).quit},
		{name: "TOP", states: transaction, arg: required, run: (*session).top, loggable: true, capability: "TOP"},
		{name: "UIDL", states: transaction, arg: optional, run: (*session).uidl, loggable: true, capability: "UIDL"},
		{name: "USER", states: authorization, arg: required, run: (*session).userName, loggable: true,
			refuse: (*session).refuseUser, capability: "USER"},
		{name: "PASS", states: authorization, arg: verbatim, run: (*session).pass, maxOctets: maxPasswordOctets,
			refuse: (*session).refuseUser},
		{name: "APOP", states: authorization, arg: required, run: (*session).apop, refuse: (*session).refuseAPOP},
		{name: "AUTH", states: authorization, arg: optional, run: (*session).auth, maxOctets: maxLineOctets,
			refuse: (*session).refuseAuth, capability: "SASL", arguments: (*session).mechanisms},
		{name: "STLS", states: authorization, run: (*session).stls,
			refuse: (*session).refuseSTLS, capability: "STLS"},
		{name: "UTF8", states: authorization, run: (*session).utf8Mode, capability: "UTF8 USER"},
		{name: "LANG", states: both, arg: optional, run: (*session).lang, loggable: true, capability: "LANG"},
	}
	for _, c := range commands {
		if c.maxOctets == 0 {
			c.maxOctets = maxCommandOctets
		}
	}
}

// Commands are the names of all commands, as Hooks tells them, and the one that
// stands for every other.
func Commands() []string {
	names := []string{unknown.name}
	for _, c := range commands {
		names = append(names, c.name)
	}
	return names
}

// split takes a line apart at its first space.
func split(line []byte) (verb, arg []byte) {
	verb, arg, _ = bytes.Cut(line, []byte{' '})
	return verb, arg
}

// lookup finds a command by its name in any case.
func lookup(verb []byte) *command {
	for _, c := range commands {
		if len(verb) == len(c.name) && bytes.EqualFold(verb, []byte(c.name)) {
			return c
		}
	}
	return unknown
}

// check tests what the table says about a command.
func (c *command) check(s *session, arg []byte) error {
	switch {
	case c.states&s.state == 0 && s.state == authorization:
		return refusef("log in first")
	case c.states&s.state == 0:
		return refusef("already logged in")
	case c.arg == none && len(arg) > 0:
		return refusef("%s takes no argument", c.name)
	case c.arg >= required && len(arg) == 0:
		return refusef("%s needs an argument", c.name)
	case c.refuse != nil:
		return c.refuse(s)
	}
	return nil
}

// capa lists what a client may use: each line is true on this connection, now.
// RFC 2449 section 5.
func (s *session) capa(context.Context, string) (reply, error) {
	rep := ok("capability list follows")
	rep.body = func(w *writer) error {
		for _, c := range commands {
			if c.capability == "" || c.refuse != nil && c.refuse(s) != nil {
				continue
			}
			w.WriteString(c.capability)
			if c.arguments != nil {
				w.WriteString(" " + strings.Join(c.arguments(s), " "))
			}
			w.WriteString("\r\n")
		}
		// RFC 2449 section 6.4 and 6.6, RFC 3206 section 6.
		w.WriteString("RESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\n")
		w.WriteString("EXPIRE NEVER\r\n")
		if delay := s.server.LoginDelay; delay > 0 {
			w.WriteString(fmt.Sprintf("LOGIN-DELAY %d\r\n", (delay+time.Second-1)/time.Second))
		}
		if text := s.server.Implementation; text != "" {
			w.WriteString("IMPLEMENTATION " + text + "\r\n")
		}
		return nil
	}
	return rep, nil
}
