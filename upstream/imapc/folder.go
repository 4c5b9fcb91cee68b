package imapc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/emersion/go-imap/v2"

	"postern/upstream"
)

// A folder is an entry of a LIST response. Its name is in the server's terms.
type folder struct {
	name      string
	delimiter string // between levels; empty where there are none
	roles     string // its attributes in upper case, each between spaces
}

func (f folder) is(attribute string) bool {
	return strings.Contains(f.roles, " "+strings.ToUpper(attribute)+" ")
}

func (f folder) depth() int {
	if f.delimiter == "" {
		return 0
	}
	return strings.Count(f.name, f.delimiter)
}

// destination finds the mailbox that the policy has messages moved to: the one
// of the configuration, or the one that the server marks for that purpose (RFC
// 6154). A mailbox that merely has the right name is not it.
func (c *conn) destination(ctx context.Context) (name string, err error) {
	role := c.role()
	if c.configuredFolder() {
		name, err = c.configured(ctx, c.o.Policy.Folder)
	} else {
		name, err = c.special(ctx, role)
	}
	switch {
	case err != nil:
		return "", err
	case name == "":
		return "", rejected("the server marks no mailbox as " + role)
	case c.isListed(name):
		return "", rejected("the messages would be moved to where they are")
	}
	return name, nil
}

// role is the attribute of the mailbox that the policy moves messages to.
func (c *conn) role() string {
	switch {
	case c.o.Policy.Delete != upstream.DeleteArchive:
		return `\Trash`
	case c.gmail():
		return `\All` // it has no other archive
	}
	return `\Archive`
}

func (c *conn) configuredFolder() bool {
	return c.o.Policy.Delete == upstream.DeleteArchive && c.o.Policy.Folder != ""
}

// configured writes a configured name as the server does, with its delimiter.
func (c *conn) configured(ctx context.Context, name string) (string, error) {
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", rejected("a control character in the mailbox's name")
	}
	if strings.Contains(name, "/") {
		root, err := c.folders(ctx, `LIST "" ""`)
		if err != nil {
			return "", err
		}
		if len(root) > 0 && root[0].delimiter != "" {
			name = strings.ReplaceAll(name, "/", root[0].delimiter)
		}
	}
	return c.mailboxName(name), nil
}

// special returns the mailbox that the server marks by an attribute, or "".
// Servers may tell the attributes in answer to every LIST, and those without
// LIST-EXTENDED know no other.
func (c *conn) special(ctx context.Context, attribute string) (string, error) {
	if c.caps.Has(imap.CapListExtended) && c.caps.Has(imap.CapSpecialUse) || c.caps.Has(imap.CapIMAP4rev2) {
		all, err := c.folders(ctx, `LIST (SPECIAL-USE) "" "*"`)
		if err != nil && !errors.Is(err, errRefusedList) {
			return "", err
		}
		if name := choose(all, attribute); name != "" {
			return name, nil
		}
	}
	all, err := c.folders(ctx, `LIST "" "*"`)
	return choose(all, attribute), err
}

// choose returns the mailbox that has an attribute: of several the one nearest
// to the root, as other people's mailboxes are below their owner's name.
func choose(all []folder, attribute string) string {
	var best *folder
	for k, f := range all {
		if f.name == "" || !f.is(attribute) || f.is(`\Noselect`) || f.is(`\NonExistent`) {
			continue
		}
		if best == nil || f.depth() < best.depth() || f.depth() == best.depth() && f.name < best.name {
			best = &all[k]
		}
	}
	if best == nil {
		return ""
	}
	return best.name
}

var errRefusedList = errors.New("LIST refused")

func (c *conn) folders(ctx context.Context, command string) (all []folder, err error) {
	s, err := c.ask(ctx, c.searched(), command, func(line []byte) error {
		if f, ok := parseList(line); ok && len(all) < maxFolders {
			all = append(all, f)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, c.lost("list mailboxes", err)
	case s.kind != "OK":
		return nil, fmt.Errorf("%w: %w", errRefusedList, refused("list mailboxes", s, upstream.ErrUnavailable))
	}
	return all, nil
}

const (
	maxFolders    = 100_000
	maxFolderName = 500 // octets; longer ones would not fit on a command line with a set
)

// parseList reads * LIST (\Trash) "/" "name". A name that came as a literal is
// not known here, and its mailbox passed over.
func parseList(line []byte) (f folder, ok bool) {
	if !hasPrefixFold(line, "* LIST ") {
		return f, false
	}
	var words [3]string
	rest := append(bytes.Clone(line[len("* LIST "):]), ' ') // which ends the last word
	for k := range words {
		rest = trimSpace(rest)
		n := valueLen(rest)
		if n == 0 {
			return f, false
		}
		words[k], rest = string(rest[:n]), rest[n:]
	}
	f.roles = " " + strings.ToUpper(strings.Trim(words[0], "()")) + " "
	if words[1] != "NIL" {
		f.delimiter = unquote([]byte(words[1]))
	}
	f.name = unquote([]byte(words[2]))
	return f, len(f.name) <= maxFolderName && !strings.ContainsFunc(f.name, func(r rune) bool { return r < ' ' || r == 0x7f })
}
