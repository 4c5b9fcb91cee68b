package main

import (
	"io"
	"log"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
)

// Who names the wrong port, or an old server with a certificate of its own, is
// told which flag helps.
func TestImportExplainsTLS(t *testing.T) {
	t.Parallel()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	go func() {
		for {
			c, err := plain.Accept()
			if err != nil {
				return
			}
			c.Write([]byte("+OK ready\r\n"))
			c.Close()
		}
	}()
	private := httptest.NewUnstartedServer(nil)
	private.Config.ErrorLog = log.New(io.Discard, "", 0)
	private.StartTLS() // with a certificate that nobody here signed
	defer private.Close()
	config := writeConfig(t, `
listeners: [{address: "127.0.0.1:0"}]
upstreams: {office: {protocol: imap, address: "127.0.0.1:1", tls: off}}
routes: [{user: "*", upstream: office}]
`)
	for address, want := range map[string]string{
		plain.Addr().String():                       "--pop3-tls stls, or off",
		strings.TrimPrefix(private.URL, "https://"): "--pop3-ca-file",
	} {
		refused(t, want, "uidl", "import", "-c", config, "--user", "ann", "--pop3", address, "--password-file", secretIn(t, "secret"), "--dry-run")
	}
}
