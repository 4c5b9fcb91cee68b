package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// expand replaces ${NAME} by that environment variable, and $$ by $.
func expand(text string, env func(string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		if rest, ok := strings.CutPrefix(after, "$"); ok {
			b.WriteByte('$')
			text = rest
			continue
		}
		name, rest, closed := strings.Cut(strings.TrimPrefix(after, "{"), "}")
		if !strings.HasPrefix(after, "{") || !closed || name == "" || strings.Trim(name, labelOctets) != "" {
			return "", errors.New("a lone $ stands here: write ${NAME} for an environment variable, $$ for a dollar sign")
		}
		set, ok := env(name)
		if !ok {
			return "", fmt.Errorf("the environment variable %s is not set", name)
		}
		b.WriteString(set)
		text = rest
	}
}

// oneOf accepts these words and no others.
func oneOf(words ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		if slices.Contains(words, text) {
			return text, nil
		}
		last := len(words) - 1
		return "", fmt.Errorf("%q is not %s or %s", text, strings.Join(words[:last], ", "), words[last])
	}
}

// text accepts any text but none.
func text(text string) (string, error) {
	if text == "" {
		return "", errors.New("the value is empty")
	}
	return text, nil
}

func boolean(text string) (bool, error) {
	if text != "true" && text != "false" {
		return false, fmt.Errorf("%q is not true or false", text)
	}
	return text == "true", nil
}

// count accepts a whole number from 1 up.
func count(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a whole number from 1 up", text)
	}
	return int(n), nil
}

// maxDuration keeps deadlines within what a clock can add up.
const maxDuration = 30 * 24 * time.Hour

// duration accepts a length of time with its unit, and longer than none.
func duration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a length of time: write it with a unit, such as 90s, 10m or 1h", text)
	}
	if d <= 0 || d > maxDuration {
		return 0, fmt.Errorf("%q must be more than 0 and at most 720h", text)
	}
	return d, nil
}

// durationOrNone accepts 0 too.
func durationOrNone(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err == nil && d == 0 {
		return 0, nil
	}
	if err == nil && (d < 0 || d > maxDuration) {
		return 0, fmt.Errorf("%q must be 0s, or more and at most 720h", text)
	}
	return duration(text)
}

// warmth accepts how long a connection may wait for a client to come back: long
// enough to be of use, and well within the ten minutes after which the password
// has to be asked for again.
func warmth(text string) (time.Duration, error) {
	const least, most = 5 * time.Second, 5 * time.Minute
	d, err := durationOrNone(text)
	if err == nil && d != 0 && (d < least || d > most) {
		return 0, fmt.Errorf("%q must be 0s, or from 5s to 5m", text)
	}
	return d, err
}

const day = 24 * time.Hour

// maxDays keeps a retention within what an operator can mean.
const maxDays = 3660

// days accepts a length of time that may be written in days, and longer than
// none.
func days(text string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(text, "d"); ok {
		whole, err := strconv.ParseUint(n, 10, 31)
		if err != nil || whole == 0 || whole > maxDays {
			return 0, fmt.Errorf("%q is not a number of days from 1d to %dd", text, maxDays)
		}
		return time.Duration(whole) * day, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a length of time: write it with a unit, such as 30d, 12h or 90m", text)
	}
	if d <= 0 || d > maxDays*day {
		return 0, fmt.Errorf("%q must be more than 0 and at most %dd", text, maxDays)
	}
	return d, nil
}

// daysOrNone accepts 0 too.
func daysOrNone(text string) (time.Duration, error) {
	if d, err := time.ParseDuration(text); text == "0d" || err == nil && d == 0 {
		return 0, nil
	}
	return days(text)
}

// percent accepts a whole number from 1 to 100.
func percent(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil || n == 0 || n > 100 {
		return 0, fmt.Errorf("%q is not a whole number from 1 to 100", text)
	}
	return int(n), nil
}

// folder accepts the name of a mailbox, its levels parted by "/".
func folder(text string) (string, error) {
	for level := range strings.SplitSeq(text, "/") {
		if strings.TrimSpace(level) == "" {
			return "", fmt.Errorf("%q is not the name of a folder: write its levels with / between them, such as Archive/POP3", text)
		}
	}
	if strings.EqualFold(text, "INBOX") {
		return "", errors.New("INBOX is where messages are removed from")
	}
	if len(text) > maxFolder || strings.ContainsFunc(text, unicode.IsControl) {
		return "", fmt.Errorf("the name of a folder has at most %d octets, and no control characters", maxFolder)
	}
	return text, nil
}

// maxFolder is longer than any mailbox's name that a server takes.
const maxFolder = 255

var sizeUnits = []struct {
	name   string
	octets int64
}{ // the longer names first: "B" ends them all
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1},
}

// size accepts a number of octets with its unit, and more than none.
func size(text string) (int64, error) {
	for _, unit := range sizeUnits {
		digits, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 31)
		if err != nil || n == 0 {
			break
		}
		return int64(n) * unit.octets, nil
	}
	return 0, fmt.Errorf("%q is not a size: write a whole number and B, KiB, MiB or GiB, such as 64MiB", text)
}

// listenAddress accepts an address to listen on: a port, and perhaps a host.
func listenAddress(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", fmt.Errorf("%q is not an address: write host:port, such as 127.0.0.1:1110, or :110 for every interface", text)
	}
	if err := checkPort(port, 0); err != nil {
		return "", err
	}
	if host != "" && !isHost(host) {
		return "", fmt.Errorf("%q is not a host: leave it out to listen on every interface", host)
	}
	return text, nil
}

// dialAddress accepts an address to connect to: a host and a port.
func dialAddress(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", fmt.Errorf("%q is not an address: write host:port, such as imap.example.org:993", text)
	}
	if err := checkPort(port, 1); err != nil {
		return "", err
	}
	if !isHost(host) {
		return "", fmt.Errorf("%q is not a host name or IP address", host)
	}
	return text, nil
}

func checkPort(port string, least uint64) error {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n < least {
		return fmt.Errorf("%q is not a port number", port)
	}
	return nil
}

// hostName accepts a DNS name or an IP address.
func hostName(text string) (string, error) {
	if !isHost(text) {
		return "", fmt.Errorf("%q is not a host name", text)
	}
	return text, nil
}

func isHost(text string) bool {
	if _, err := netip.ParseAddr(text); err == nil {
		return true
	}
	if text == "" || len(text) > 253 {
		return false
	}
	for r := range strings.SplitSeq(strings.TrimSuffix(text, "."), ".") {
		if r == "" || len(r) > 63 || strings.Trim(r, labelOctets) != "" {
			return false
		}
	}
	return true
}

const labelOctets = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// network accepts a network, or a single address.
func network(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("%q is not a network: write 192.0.2.0/24, 2001:db8::/32 or a single address", text)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%q is an address within %v: write the network or the address alone", text, p.Masked())
	}
	return p, nil
}

// fingerprint accepts a SHA-256 digest in hexadecimal, as openssl prints it.
func fingerprint(text string) ([]byte, error) {
	digest, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil || len(digest) != 32 {
		return nil, fmt.Errorf("%q is not a SHA-256 fingerprint: write its 64 hexadecimal digits, as openssl x509 -noout -fingerprint -sha256 prints them", text)
	}
	return digest, nil
}

// webAddress accepts an absolute http or https URL.
func webAddress(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return "", errors.New("not a URL: write it whole, such as https://jmap.example.org/.well-known/jmap")
	}
	if u.User != nil {
		return "", errors.New("the URL has a user name or password in it: clients bring their own")
	}
	if u.Fragment != "" || !isHost(u.Hostname()) {
		return "", fmt.Errorf("%q is not the URL of a JMAP session", text)
	}
	return text, nil
}
