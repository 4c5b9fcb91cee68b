package imapc

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"postern/upstream"
)

// find returns those of the messages that meet the criteria, which may be empty.
func (c *conn) find(ctx context.Context, uids []uint32, criteria string) (found []uint32, err error) {
	ranges, err := c.search(ctx, "UID "+uidSet(uids)+criteria)
	return within(uids, ranges), err
}

// within returns those of the messages, whose UIDs rise, that are in one of the
// ranges. Of those a server may send a million.
func within(uids []uint32, ranges []uidRange) (some []uint32) {
	begin := make([]int, len(uids)+1) // ranges that begin at a message, less those that ended before it
	for _, r := range ranges {
		from, _ := slices.BinarySearch(uids, r.first)
		to := len(uids)
		if r.last < math.MaxUint32 {
			to, _ = slices.BinarySearch(uids, r.last+1)
		}
		begin[from]++
		begin[to]--
	}
	open := 0
	for k, uid := range uids {
		if open += begin[k]; open > 0 {
			some = append(some, uid)
		}
	}
	return some
}

// search returns the UIDs that meet the criteria. An OK alone is no answer: a
// server that finds nothing says so (RFC 9051 section 6.4.4).
func (c *conn) search(ctx context.Context, criteria string) (found []uidRange, err error) {
	s := newSearching(criteria, &found)
	if err := c.askAll(ctx, s.query); err != nil {
		return nil, c.lost("search", err)
	}
	if s.status.kind != "OK" {
		return nil, refused("search", s.status, upstream.ErrUnavailable)
	}
	if !s.answered {
		return nil, errNoAnswer
	}
	return found, nil
}

var errNoAnswer = fmt.Errorf("search: no answer: %w: %w", errProtocol, upstream.ErrUnavailable)

// A searching is a search on its way.
type searching struct {
	*query
	answered bool
}

// newSearching makes a search that adds what it finds to found.
func newSearching(criteria string, found *[]uidRange) *searching {
	s := &searching{}
	s.query = newQuery("UID SEARCH "+criteria, func(line []byte) error {
		ranges, ok, err := parseSearch(line)
		if ok {
			*found, s.answered = append(*found, ranges...), true
		}
		return err
	})
	return s
}

// present returns those of the messages that are there. FETCH would not tell:
// a server may leave out what it cannot show.
func (c *conn) present(ctx context.Context, uids []uint32) ([]uint32, error) {
	return c.find(ctx, uids, "")
}

// without returns the elements of all that are not in some, which is sorted.
func without(all, some []uint32) []uint32 {
	return slices.DeleteFunc(slices.Clone(all), func(uid uint32) bool { return contains(some, uid) })
}

func contains(sorted []uint32, uid uint32) bool {
	_, found := slices.BinarySearch(sorted, uid)
	return found
}

// uidSet writes UIDs, which are sorted, as a set that holds no other number.
func uidSet(uids []uint32) string {
	var set []byte
	for k := 0; k < len(uids); {
		end := k
		for end+1 < len(uids) && uids[end+1]-uids[end] <= 1 {
			end++
		}
		if k > 0 {
			set = append(set, ',')
		}
		set = strconv.AppendUint(set, uint64(uids[k]), 10)
		if uids[end] != uids[k] {
			set = append(set, ':')
			set = strconv.AppendUint(set, uint64(uids[end]), 10)
		}
		k = end + 1
	}
	return string(set)
}

type uidRange struct{ first, last uint32 }

// parseSearch reads the UIDs in a SEARCH or ESEARCH response; ok tells whether
// the line is one that answers. Ranges stay ranges, however wide. An ESEARCH
// without UID holds sequence numbers, and counts as no answer.
func parseSearch(line []byte) (found []uidRange, ok bool, err error) {
	fields := fieldsOf(line)
	if len(fields) < 2 {
		return nil, false, nil
	}
	switch {
	case hasPrefixFold(fields[1], "SEARCH") && len(fields[1]) == len("SEARCH"):
		for _, f := range fields[2:] {
			if f[0] == '(' {
				break // (MODSEQ n), RFC 7162
			}
			r, err := parseRanges(f)
			if err != nil {
				return nil, false, err
			}
			found = append(found, r...)
		}
		return found, true, nil
	case hasPrefixFold(fields[1], "ESEARCH") && len(fields[1]) == len("ESEARCH"):
		uid := false
		for k, f := range fields[2:] {
			if hasPrefixFold(f, "UID") && len(f) == len("UID") {
				uid = true
			}
			if hasPrefixFold(f, "ALL") && len(f) == len("ALL") && k+3 < len(fields) {
				if found, err = parseRanges(fields[k+3]); err != nil {
					return nil, false, err
				}
			}
		}
		return found, uid, nil
	}
	return nil, false, nil
}

// fieldsOf splits a line at its spaces.
func fieldsOf(line []byte) (fields [][]byte) {
	for line = trimSpace(line); len(line) > 0; line = trimSpace(line) {
		end := 0
		for end < len(line) && line[end] != ' ' {
			end++
		}
		fields = append(fields, line[:end])
		line = line[end:]
	}
	return fields
}

func parseRanges(set []byte) (found []uidRange, err error) {
	for len(set) > 0 {
		first, n := number(set)
		last := first
		set = set[n:]
		if n > 0 && len(set) > 0 && set[0] == ':' {
			last, n = number(set[1:])
			set = set[1+n:]
		}
		if n == 0 || first > math.MaxUint32 || last > math.MaxUint32 || len(set) > 0 && set[0] != ',' {
			return nil, fmt.Errorf("set %s: %w", printable(set), errProtocol)
		}
		if len(set) > 0 {
			set = set[1:]
		}
		found = append(found, uidRange{uint32(min(first, last)), uint32(max(first, last))})
	}
	return found, nil
}
