package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A jmapReader downloads blobs from one account and does nothing with them but
// check.
type jmapReader struct {
	client   *http.Client
	base     string
	user     string
	download string // template of RFC 8620 section 6.2, with the account filled in
	blobs    []string
}

// newJMAPReader logs in and asks for the blobs of all messages.
func newJMAPReader(ctx context.Context, address, user string) (*jmapReader, error) {
	r := &jmapReader{base: "http://" + address, user: user, client: &http.Client{Transport: &http.Transport{
		DialContext:         dialPrompt,
		DisableCompression:  true,
		MaxIdleConnsPerHost: downloads,
	}}}
	var session struct {
		APIURL, DownloadURL string
		PrimaryAccounts     map[string]string
	}
	if err := r.json(ctx, "GET", "/jmap/", nil, &session); err != nil {
		return nil, err
	}
	const mail = "urn:ietf:params:jmap:mail"
	account := session.PrimaryAccounts[mail]
	r.download = strings.NewReplacer("{accountId}", account, "{name}", "m", "{type}", "application%2Foctet-stream").Replace(session.DownloadURL)
	query := map[string]any{
		"using": []string{"urn:ietf:params:jmap:core", mail},
		"methodCalls": []any{
			[]any{"Email/query", map[string]any{"accountId": account}, "q"},
			[]any{"Email/get", map[string]any{"accountId": account, "properties": []string{"blobId"},
				"#ids": map[string]string{"resultOf": "q", "name": "Email/query", "path": "/ids"}}, "g"},
		},
	}
	body, err := json.Marshal(query)
	if err != nil {
		return nil, err
	}
	var answer struct{ MethodResponses [][]json.RawMessage }
	if err := r.json(ctx, "POST", session.APIURL, body, &answer); err != nil {
		return nil, err
	}
	return r, r.take(answer.MethodResponses)
}

// take reads the blob ids from the answer to Email/get.
func (r *jmapReader) take(responses [][]json.RawMessage) error {
	if len(responses) != 2 || len(responses[1]) != 3 {
		return errors.New("bare JMAP: not two answers")
	}
	var got struct{ List []struct{ BlobID string } }
	if err := json.Unmarshal(responses[1][1], &got); err != nil {
		return err
	}
	for _, m := range got.List {
		r.blobs = append(r.blobs, m.BlobID)
	}
	return nil
}

func (r *jmapReader) json(ctx context.Context, method, path string, body []byte, to any) error {
	response, err := r.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return json.NewDecoder(response.Body).Decode(to)
}

func (r *jmapReader) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, r.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth(r.user, password)
	request.Header.Set("Content-Type", "application/json")
	response, err := r.client.Do(request)
	if err == nil && response.StatusCode != http.StatusOK {
		response.Body.Close()
		err = fmt.Errorf("%s %s: %s", method, path, response.Status)
	}
	return response, err
}

// drain downloads the first n messages, several at once.
func (r *jmapReader) drain(ctx context.Context, n int, m *mailbox) (messagesPerSecond float64, err error) {
	blobs := r.blobs[:min(n, len(r.blobs))]
	var next, digest atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for range downloads {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(blobs)); i = next.Add(1) - 1 {
				sum, err := r.fetch(ctx, blobs[i])
				if err != nil {
					return err
				}
				digest.Add(int64(sum))
			}
			return nil
		})
	}
	err = g.Wait()
	took := time.Since(begin)
	if all := m.digests[m.messages]; err == nil && len(blobs) == m.messages && uint64(digest.Load()) != all {
		err = fmt.Errorf("bare JMAP: %w", errContent)
	}
	return float64(len(blobs)) / took.Seconds(), err
}

func (r *jmapReader) fetch(ctx context.Context, blob string) (uint32, error) {
	response, err := r.do(ctx, "GET", strings.ReplaceAll(r.download, "{blobId}", blob), nil)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	sum := crc32.New(castagnoli)
	_, err = io.Copy(sum, response.Body)
	return sum.Sum32(), err
}

// dialPrompt connects so that what arrives is acknowledged at once: Cyrus has
// Nagle's algorithm on and would else wait for it, 40 ms for each message.
func dialPrompt(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &promptConn{c.(*net.TCPConn)}, nil
}

type promptConn struct{ *net.TCPConn }

func (c *promptConn) Read(b []byte) (int, error) {
	if raw, err := c.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	}
	return c.TCPConn.Read(b)
}
