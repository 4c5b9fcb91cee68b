package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"postern/upstream"
)

// password reads somebody's password from where it cannot be seen: the terminal,
// where file is empty, or else the first line of a file; - is standard input. A
// signal ends that, and gives the terminal its echo back.
func (p *program) password(whose, file string) (upstream.Secret, error) {
	type result struct {
		upstream.Secret
		error
	}
	read := make(chan result, 1)
	restore := p.keepTerminal()
	go func() {
		s, err := p.readPassword(whose, file)
		read <- result{s, err}
	}()
	select {
	case r := <-read:
		return r.Secret, r.error
	case <-p.drain.Done():
		restore()
		return upstream.Secret{}, errors.New("interrupted")
	}
}

func (p *program) readPassword(whose, file string) (upstream.Secret, error) {
	switch file {
	case "":
		return p.askPassword(whose)
	case "-":
		return firstLine(p.in)
	}
	f, err := os.Open(file)
	if err != nil {
		return upstream.Secret{}, err
	}
	defer f.Close()
	return firstLine(f)
}

func (p *program) askPassword(whose string) (upstream.Secret, error) {
	terminal, ok := terminalOf(p.in)
	if !ok {
		return upstream.Secret{}, errors.New("there is no terminal to ask for the password: give --password-file")
	}
	fmt.Fprintf(p.err, "Password of %s: ", whose)
	text, err := term.ReadPassword(terminal)
	fmt.Fprintln(p.err)
	if err == nil && len(text) == 0 {
		err = errors.New("no password was typed")
	}
	return upstream.NewSecret(string(text)), err
}

// keepTerminal returns what puts the terminal back into its present state.
func (p *program) keepTerminal() (restore func()) {
	terminal, ok := terminalOf(p.in)
	if !ok {
		return func() {}
	}
	state, err := term.GetState(terminal)
	if err != nil {
		return func() {}
	}
	return func() { term.Restore(terminal, state) }
}

// terminalOf returns the descriptor of a stream that is a terminal.
func terminalOf(stream any) (descriptor int, ok bool) {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}

// maxPassword is more than any password is long.
const maxPassword = 16 << 10

func firstLine(r io.Reader) (upstream.Secret, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxPassword)).ReadString('\n')
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("its first line is empty")
		}
		return upstream.Secret{}, fmt.Errorf("read the password: %w", err)
	}
	return upstream.NewSecret(line), nil
}

// secretFile reads the first line of a file.
func secretFile(path string) (upstream.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return upstream.Secret{}, err
	}
	defer f.Close()
	secret, err := firstLine(f)
	if err != nil {
		return upstream.Secret{}, fmt.Errorf("%s: %w", path, err)
	}
	return secret, nil
}

// progress shows on a terminal that something is under way, and for how long,
// until the function that it returns is called. Elsewhere it shows nothing.
func (p *program) progress(what string) (done func()) {
	if _, ok := terminalOf(p.err); !ok {
		return func() {}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		began := time.Now()
		ticks := time.NewTicker(time.Second / 4)
		defer ticks.Stop()
		for {
			fmt.Fprintf(p.err, "\r  %s, %.0f s ", what, time.Since(began).Seconds())
			select {
			case <-ticks.C:
			case <-stop:
				fmt.Fprint(p.err, "\r\x1b[K")
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

// counting shows how far something is: on a terminal all the time, elsewhere a
// line now and then, until end is called.
func (p *program) counting(what string) (report func(done, all int), end func()) {
	_, terminal := terminalOf(p.err)
	next := time.Now().Add(countingPause)
	report = func(done, all int) {
		switch {
		case terminal:
			fmt.Fprintf(p.err, "\r  %d of %d %s ", done, all, what)
		case time.Now().After(next):
			fmt.Fprintf(p.err, "%d of %d %s\n", done, all, what)
			next = time.Now().Add(countingPause)
		}
	}
	return report, func() {
		if terminal {
			fmt.Fprint(p.err, "\r\x1b[K")
		}
	}
}

// countingPause is between two lines where there is no terminal.
const countingPause = 10 * time.Second
