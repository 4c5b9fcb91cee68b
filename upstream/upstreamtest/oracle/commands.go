package oracle

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// do carries out a command, only for every other message where half is set, and
// returns what is to follow the tag.
func (c *conn) do(verb, args string, by cause, half bool) string {
	switch verb {
	case "CAPABILITY":
		fmt.Fprintf(&c.out, "* CAPABILITY %s\r\n", c.s.Capabilities)
	case "ID":
		c.out.WriteString("* ID NIL\r\n")
	case "NOOP", "ENABLE", "CHECK":
	case "LOGOUT":
		c.out.WriteString("* BYE\r\n")
	case "LOGIN":
		words := wordsOf(args)
		return c.login(words[0], words[len(words)-1])
	case "AUTHENTICATE":
		return c.plain(args)
	default:
		if c.account == nil {
			return "BAD not now"
		}
		return c.mail(verb, args, by, half)
	}
	return "OK done"
}

func (c *conn) login(user, password string) string {
	a := c.s.accounts[user]
	if a == nil || a.password != password {
		return "NO [AUTHENTICATIONFAILED] no"
	}
	c.account = a
	return "OK [CAPABILITY " + c.s.Capabilities + "] welcome"
}

// plain is AUTHENTICATE PLAIN with an initial response. RFC 4616, RFC 4959.
func (c *conn) plain(args string) string {
	mechanism, response, _ := strings.Cut(args, " ")
	text, err := base64.StdEncoding.DecodeString(response)
	parts := strings.Split(string(text), "\x00")
	if mechanism != "PLAIN" || err != nil || len(parts) != 3 {
		return "BAD what?"
	}
	return c.login(parts[1], parts[2])
}

// mail carries out what needs a login.
func (c *conn) mail(verb, args string, by cause, half bool) string {
	switch verb {
	case "SELECT", "EXAMINE":
		return c.choose(wordsOf(args)[0], verb == "EXAMINE")
	case "STATUS":
		return c.status(args)
	case "LIST", "LSUB", "NAMESPACE":
		return c.list(verb, args)
	}
	if c.box == nil {
		return "BAD nothing is selected"
	}
	set, rest, _ := strings.Cut(args, " ")
	switch verb {
	case "UNSELECT":
		c.box, c.view = nil, nil
	case "UID FETCH":
		return c.fetch(c.named(set, half), rest)
	case "UID SEARCH":
		return c.search(args)
	case "UID STORE":
		return c.store(c.named(set, half), rest, by)
	case "UID EXPUNGE":
		return c.expunge(c.named(set, half), by)
	case "UID MOVE", "UID COPY":
		return c.move(verb, c.named(set, half), wordsOf(rest)[0], by)
	case "EXPUNGE", "CLOSE":
		c.s.note(Forbidden, c.account.name, c.box, nil, by)
		if !c.examined {
			c.expungeAll(by)
		}
	default:
		// FETCH, STORE, SEARCH, COPY and MOVE by sequence numbers among them.
		c.s.note(Forbidden, c.account.name, c.box, nil, by)
		return "BAD what?"
	}
	return "OK done"
}

func (c *conn) choose(name string, examine bool) string {
	b := c.account.box(name)
	if b == nil {
		return "NO [NONEXISTENT] no such mailbox"
	}
	c.box, c.examined, c.view = b, examine, slices.Clone(b.entries)
	fmt.Fprintf(&c.out, "* FLAGS (\\Deleted \\Seen)\r\n* %d EXISTS\r\n* OK [UIDVALIDITY %d] valid\r\n* OK [UIDNEXT %d] next\r\n",
		len(b.entries), b.validity, b.next)
	if examine {
		return "OK [READ-ONLY] selected"
	}
	return "OK [READ-WRITE] selected"
}

func (c *conn) status(args string) string {
	words := wordsOf(args)
	b := c.account.box(words[0])
	if b == nil {
		return "NO [NONEXISTENT] no such mailbox"
	}
	fmt.Fprintf(&c.out, "* STATUS %q (MESSAGES %d UIDNEXT %d UIDVALIDITY %d)\r\n", b.name, len(b.entries), b.next, b.validity)
	return "OK done"
}

// list answers every LIST with all that there is or, where the command selects
// by it, with what has a special use.
func (c *conn) list(verb, args string) string {
	if verb == "NAMESPACE" {
		c.out.WriteString("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n")
		return "OK done"
	}
	special := strings.HasPrefix(strings.ToUpper(args), "(SPECIAL-USE)")
	words := wordsOf(args)
	pattern := words[len(words)-1]
	for _, b := range c.account.boxes {
		if special && b.use == "" || !special && !strings.ContainsAny(pattern, "*%") && pattern != b.name {
			continue
		}
		fmt.Fprintf(&c.out, "* LIST (\\HasNoChildren%s) \"/\" %q\r\n", prefixed(" ", b.use), b.name)
	}
	return "OK done"
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// named returns the messages that a set of UIDs names, of those that the client
// knows; only every other one of them where half is set.
func (c *conn) named(set string, half bool) []*entry {
	var some []*entry
	for k, e := range c.view {
		if setHas(set, e.uid, c.view[len(c.view)-1].uid) && slices.Contains(c.box.entries, e) && !(half && k%2 == 0) {
			some = append(some, e)
		}
	}
	return some
}

// setHas tells whether a set holds a UID; last is what the asterisk stands for.
func setHas(set string, uid, last uint32) bool {
	number := func(text string) uint32 {
		if text == "*" {
			return last
		}
		n, _ := strconv.ParseUint(text, 10, 32)
		return uint32(n)
	}
	for part := range strings.SplitSeq(set, ",") {
		from, to, isRange := strings.Cut(part, ":")
		a, b := number(from), number(from)
		if isRange {
			b = number(to)
		}
		if min(a, b) <= uid && uid <= max(a, b) {
			return true
		}
	}
	return false
}

var itemPattern = regexp.MustCompile(`BODY(?:\.PEEK)?\[([A-Z.]*)([^\]]*)\](?:<(\d+)\.(\d+)>)?|[A-Z0-9.]+`)

func (c *conn) fetch(some []*entry, items string) string {
	if strings.Contains(items, "BODY[") {
		return "BAD that would set a flag"
	}
	for _, e := range some {
		parts := []string{fmt.Sprintf("UID %d", e.uid)}
		for _, item := range itemPattern.FindAllStringSubmatch(strings.ToUpper(items), -1) {
			if part := e.item(item); part != "" {
				parts = append(parts, part)
			}
		}
		fmt.Fprintf(&c.out, "* %d FETCH (%s)\r\n", slices.Index(c.view, e)+1, strings.Join(parts, " "))
	}
	return "OK done"
}

// item is one item of a FETCH response.
func (e *entry) item(item []string) string {
	switch item[0] {
	case "UID":
		return ""
	case "RFC822.SIZE":
		return fmt.Sprintf("RFC822.SIZE %d", len(e.Raw))
	case "FLAGS":
		return "FLAGS (" + e.flags() + ")"
	case "INTERNALDATE":
		return "INTERNALDATE " + e.received.Format(`"_2-Jan-2006 15:04:05 -0700"`)
	}
	text := e.Raw
	if strings.HasPrefix(item[1], "HEADER") { // its fields too: a gateway has to pick them
		text = text[:strings.Index(text, "\r\n\r\n")+4]
	}
	name := "BODY[" + item[1] + item[2] + "]"
	if item[3] != "" {
		first, _ := strconv.Atoi(item[3])
		octets, _ := strconv.Atoi(item[4])
		first = min(first, len(text))
		text = text[first:min(first+octets, len(text))]
		name += "<" + item[3] + ">"
	}
	return fmt.Sprintf("%s {%d}\r\n%s", name, len(text), text)
}

func (e *entry) flags() string {
	var flags []string
	if e.deleted {
		flags = append(flags, `\Deleted`)
	}
	if e.seen {
		flags = append(flags, `\Seen`)
	}
	return strings.Join(flags, " ")
}

func (c *conn) search(args string) string {
	words := wordsOf(strings.ToUpper(args))
	extended := false
	if len(words) > 1 && words[0] == "RETURN" {
		extended, words = true, words[2:]
	}
	found := c.view
	for k := 0; k < len(words); k++ {
		not := words[k] == "NOT"
		if not {
			k++
		}
		var match func(e *entry) bool
		switch words[k] {
		case "ALL":
			match = func(*entry) bool { return true }
		case "DELETED":
			c.looked = c.s.Record.Now()
			match = func(e *entry) bool { return e.deleted }
		case "UNDELETED":
			match = func(e *entry) bool { return !e.deleted }
		case "UID":
			k++
			set := words[k]
			match = func(e *entry) bool { return setHas(set, e.uid, c.view[len(c.view)-1].uid) }
		default:
			return "BAD search for what?"
		}
		found = slices.DeleteFunc(slices.Clone(found), func(e *entry) bool {
			return match(e) == not || !slices.Contains(c.box.entries, e)
		})
	}
	c.found(found, extended)
	return "OK done"
}

func (c *conn) found(some []*entry, extended bool) {
	var uids []string
	for _, e := range some {
		uids = append(uids, strconv.Itoa(int(e.uid)))
	}
	if extended {
		fmt.Fprintf(&c.out, "* ESEARCH UID COUNT %d%s\r\n", len(uids), prefixed(" ALL ", strings.Join(uids, ",")))
	} else {
		fmt.Fprintf(&c.out, "* SEARCH%s\r\n", prefixed(" ", strings.Join(uids, " ")))
	}
}

func (c *conn) store(some []*entry, args string, by cause) string {
	how, flags, _ := strings.Cut(strings.ToUpper(args), " ")
	if c.examined || how[0] != '+' && how[0] != '-' {
		return "NO [READ-ONLY] not here"
	}
	for _, e := range some {
		if strings.Contains(flags, `\DELETED`) {
			c.s.flag(c.account.name, c.box, e, how[0] == '+', by)
		}
		if strings.Contains(flags, `\SEEN`) {
			e.seen = how[0] == '+'
		}
		if !strings.Contains(how, "SILENT") {
			fmt.Fprintf(&c.out, "* %d FETCH (UID %d FLAGS (%s))\r\n", slices.Index(c.view, e)+1, e.uid, e.flags())
		}
	}
	return "OK done"
}

func (c *conn) has(capability string) bool {
	return slices.Contains(strings.Fields(c.s.Capabilities), capability)
}

// expunge is UID EXPUNGE: it removes what is flagged of what is named. RFC 4315
// section 2.1.
func (c *conn) expunge(some []*entry, by cause) string {
	if !c.has("UIDPLUS") || c.examined {
		return "BAD no such command"
	}
	for _, e := range some {
		if e.deleted {
			c.s.drop(c.account.name, c.box, e, by, false)
		}
	}
	return "OK done"
}

// expungeAll removes whatever is flagged, whoever flagged it.
func (c *conn) expungeAll(by cause) {
	for _, e := range slices.Clone(c.box.entries) {
		if e.deleted {
			c.s.drop(c.account.name, c.box, e, by, c.looked > 0 && e.flagTime > c.looked)
		}
	}
}

func (c *conn) move(verb string, some []*entry, to string, by cause) string {
	b := c.account.box(to)
	switch {
	case verb == "UID MOVE" && !c.has("MOVE"):
		return "BAD no such command"
	case b == nil:
		return "NO [TRYCREATE] no such mailbox"
	case c.examined:
		return "NO [READ-ONLY] not here"
	}
	var from, there []string
	for _, e := range some {
		from = append(from, strconv.Itoa(int(e.uid)))
		there = append(there, strconv.Itoa(int(c.s.put(c.account.name, b, e.Message, by).uid)))
		if verb == "UID MOVE" {
			c.s.drop(c.account.name, c.box, e, by, false)
		}
	}
	code := fmt.Sprintf("[COPYUID %d %s %s] ", b.validity, strings.Join(from, ","), strings.Join(there, ","))
	if len(from) == 0 || !c.has("UIDPLUS") {
		code = ""
	}
	if verb == "UID MOVE" && code != "" {
		fmt.Fprintf(&c.out, "* OK %smoved\r\n", code)
		code = ""
	}
	return "OK " + code + "done"
}

var wordPattern = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"|\([^)]*\)|[^ ]+`)

// wordsOf parts arguments into atoms, strings and lists.
func wordsOf(args string) []string {
	var words []string
	for _, m := range wordPattern.FindAllStringSubmatch(args, -1) {
		word := m[0]
		if word[0] == '"' {
			word = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(m[1])
		}
		words = append(words, word)
	}
	if len(words) == 0 {
		return []string{""}
	}
	return words
}
