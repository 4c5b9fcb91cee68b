package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// A build is what is known of how this program was made.
type build struct {
	version, goVersion, commit string
}

func readBuild() build {
	b := build{version: "development", commit: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.goVersion = info.GoVersion
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		b.version = info.Main.Version
	}
	modified := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.commit = s.Value
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if modified {
		b.commit += ", modified"
	}
	return b
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: p.begin(func() error {
			b := readBuild()
			_, err := fmt.Fprintf(p.out, "postern %s\ngo      %s\ncommit  %s\n", b.version, b.goVersion, b.commit)
			return err
		}),
	}
}
