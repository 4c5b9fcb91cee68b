package imapc

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"postern/upstream"
)

// moveAway moves messages to another mailbox, by the way that mover has told,
// and notes in kept where they are then. With byCopy only those go whose copy
// the server has named, and those that are in kept are not copied again.
// refusal is why some did not go; err means that the connection was lost.
func (c *conn) moveAway(ctx context.Context, w way, uids []uint32, to string, kept map[uint32]upstream.Place) (refusal, err error) {
	if w == byMove {
		return c.transfer(ctx, "MOVE", uids, to, kept)
	}
	if fresh := notIn(uids, kept); len(fresh) > 0 {
		if refusal, err := c.transfer(ctx, "COPY", fresh, to, kept); refusal != nil || err != nil {
			return refusal, err
		}
	}
	lacking := notIn(uids, kept)
	if len(lacking) > 0 {
		refusal = fmt.Errorf("%d messages have no copy: %w", len(lacking), upstream.ErrUnavailable)
	}
	if copied := without(uids, lacking); len(copied) > 0 {
		no, err := c.flagAndExpunge(ctx, uidSet(copied))
		if no != nil || err != nil {
			return no, err
		}
	}
	return refusal, nil
}

// notIn returns the messages whose place is not known.
func notIn(uids []uint32, kept map[uint32]upstream.Place) (some []uint32) {
	for _, uid := range uids {
		if _, ok := kept[uid]; !ok {
			some = append(some, uid)
		}
	}
	return some
}

// transfer runs UID MOVE or UID COPY, whose result the server tells by COPYUID:
// in the tagged OK of COPY, in an untagged one before the tagged response to
// MOVE (RFC 4315 section 3, RFC 6851 section 4.3). What a refused COPY says of
// copies does not count; a refused MOVE may have moved some.
func (c *conn) transfer(ctx context.Context, verb string, uids []uint32, to string, kept map[uint32]upstream.Place) (refusal, err error) {
	t := newTransfer(verb, uids, to)
	if err := c.askAll(ctx, t.query); err != nil {
		return nil, c.lost("move", err)
	}
	if t.status.kind == "OK" || verb == "MOVE" {
		t.learn(uids, kept)
	}
	if t.status.kind != "OK" {
		return &noMove{t.status}, nil
	}
	return nil, nil
}

// A transferring is UID MOVE or UID COPY on its way, and what the server told.
type transferring struct {
	*query
	to   string
	told map[uint32]upstream.Place
}

func newTransfer(verb string, uids []uint32, to string) *transferring {
	t := &transferring{to: to, told: make(map[uint32]upstream.Place)}
	t.query = newQuery("UID "+verb+" "+uidSet(uids)+" "+quote(to), func(line []byte) error {
		if s, ok := parseStatus(line); ok && s.code == "COPYUID" {
			parseCopyUID(codeArgument(line), to, t.told)
		}
		return nil
	})
	return t
}

// learn notes in kept where those messages are that are named in the answer.
func (t *transferring) learn(uids []uint32, kept map[uint32]upstream.Place) {
	if t.status.code == "COPYUID" {
		parseCopyUID(t.status.arg, t.to, t.told)
	}
	for _, uid := range uids {
		if place, ok := t.told[uid]; ok {
			kept[uid] = place
		}
	}
}

// move moves the messages of some chunks. Where the mailbox to move them to has
// to be created, those that were refused are moved after that.
func (r *removal) move(ctx context.Context, c *conn, chunks []*chunk) error {
	lost := r.moveAll(ctx, c, chunks)
	var again []*chunk
	for _, k := range chunks {
		if r.mayCreate(c, k.refusal) {
			again = append(again, k)
			k.again()
		}
	}
	if lost != nil || len(again) == 0 {
		return lost
	}
	refusal, err := r.create(ctx, c)
	if err != nil {
		return err
	}
	for _, k := range again {
		k.refusal = refusal
	}
	return r.moveAll(ctx, c, again)
}

func (r *removal) moveAll(ctx context.Context, c *conn, chunks []*chunk) error {
	moves := make(map[*chunk]*transferring)
	lost := c.take(ctx, chunks, func(k *chunk) []*query {
		moves[k] = newTransfer("MOVE", k.uids, r.to)
		return []*query{moves[k].query}
	}, func(s status) error { return &noMove{s} })
	for k, t := range moves {
		t.learn(k.uids, r.kept)
	}
	return lost
}

// A noMove is a refusal of MOVE or COPY.
type noMove struct{ s status }

func (n *noMove) Error() string { return "move: " + n.s.Error() }
func (n *noMove) Unwrap() error { return refusal(n.s, upstream.ErrUnavailable) }

// codeArgument returns what follows the name of a response code, in whole:
// parseStatus looks at the beginning of a line only.
func codeArgument(line []byte) string {
	_, code, _ := bytes.Cut(line, []byte("["))
	code, _, whole := bytes.Cut(code, []byte("]"))
	_, arg, _ := bytes.Cut(code, []byte(" "))
	if !whole {
		return ""
	}
	return string(arg)
}

// parseCopyUID reads 38505 304,319:320 3956:3958: the UIDVALIDITY there, the
// UIDs here and those there, in the same order. Sets that do not match tell
// nothing. RFC 4315 section 3.
func parseCopyUID(arg, to string, told map[uint32]upstream.Place) {
	words := fieldsOf([]byte(arg))
	if len(words) != 3 {
		return
	}
	validity, err := strconv.ParseUint(string(words[0]), 10, 32)
	from, ok := expand(words[1])
	there, ok2 := expand(words[2])
	if err != nil || validity == 0 || !ok || !ok2 || len(from) != len(there) {
		return
	}
	for k, uid := range from {
		told[uid] = upstream.Place{
			Mailbox:  to,
			Validity: strconv.FormatUint(validity, 10),
			Name:     strconv.FormatUint(uint64(there[k]), 10),
		}
	}
}

const maxExpanded = 10_000 // UIDs of a set that a server sends; no chunk has so many

// expand returns the UIDs of a set in its order, unless they are too many.
func expand(set []byte) (uids []uint32, ok bool) {
	ranges, err := parseRanges(set)
	if err != nil {
		return nil, false
	}
	for _, r := range ranges {
		if uint64(len(uids))+uint64(r.last-r.first) >= maxExpanded {
			return nil, false
		}
		for uid := uint64(r.first); uid <= uint64(r.last); uid++ {
			uids = append(uids, uint32(uid))
		}
	}
	return uids, len(uids) > 0
}
