package main

import (
	"io"
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"postern/cmd/internal/config"
	"postern/cmd/internal/logsink"
)

// lastLines is how long the end of the process waits for whoever reads the log.
const lastLines = 2 * time.Second

// log begins the log. From then on, standard error is written to by a sink: a
// reader who stops reading, or goes away, must not stop any session.
func (p *program) log(c config.Log) *slog.Logger {
	signal.Ignore(syscall.SIGPIPE) // which ends a process that writes to a standard error without a reader
	p.sink = logsink.New(p.err, func(w io.Writer, lines int) {
		newLogger(w, c).Warn("log lines dropped", "lines", lines)
	})
	p.err = p.sink
	return newLogger(p.err, c)
}

func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(c.Level)) // checked by package config
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		options.ReplaceAttr = inSeconds
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// inSeconds writes lengths of time as the metrics do. In JSON they would be
// nanoseconds, without saying so.
func inSeconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.Float64Value(a.Value.Duration().Seconds())
	}
	return a
}
