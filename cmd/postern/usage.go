package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// noArgs refuses words that are no flags. Mostly such a word belongs behind a
// flag that was left out.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	flag := ""
	switch ext := filepath.Ext(args[0]); {
	case ext == ".yaml" || ext == ".yml":
		flag = "config"
	case strings.Contains(args[0], "@"):
		flag = "user"
	}
	if c.Flags().Lookup(flag) == nil {
		return fmt.Errorf("%q is one word too many", args[0])
	}
	return fmt.Errorf("%q is one word too many: did you mean --%s %s?", args[0], flag, args[0])
}

// misspelt tells of a word that is none of the commands of the group before it,
// and which group that is. Left alone, cobra shows the group's help and is
// content, and so is a script.
func misspelt(root *cobra.Command, args []string) (group *cobra.Command, err error) {
	group, rest, err := root.Find(args)
	if err != nil || group.Runnable() || len(rest) == 0 || strings.HasPrefix(rest[0], "-") {
		return nil, nil // cobra sees to it
	}
	text := fmt.Sprintf("unknown command %q for %q", rest[0], group.CommandPath())
	group.SuggestionsMinimumDistance = 2
	if likely := group.SuggestionsFor(rest[0]); len(likely) > 0 {
		text += "\n\nDid you mean this?\n\t" + strings.Join(likely, "\n\t") + "\n"
	}
	return group, errors.New(text)
}
