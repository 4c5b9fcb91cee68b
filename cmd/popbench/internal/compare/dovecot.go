package compare

import (
	"context"
	"errors"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"

	"postern/upstream/upstreamtest/private"
)

// A dovecot is one private instance, with its state in dir.
type dovecot struct {
	*private.Server
	imap, imaps string // addresses
	pop3        string
}

// password opens every account: each Dovecot takes it from its configuration,
// which is the fastest login it has.
const password = "secret"

// startStorage starts the Dovecot that holds the mail: IMAP is the upstream of
// all that is compared, and POP3 the peer called native.
func (b *bench) startStorage(ctx context.Context) (*dovecot, error) {
	return b.startDovecot(ctx, "storage", storageConfig)
}

// startIMAPC starts the peer called imapc: Dovecot's POP3 server on another
// server's IMAP.
func (b *bench) startIMAPC(ctx context.Context, name, upstream string) (*dovecot, error) {
	host, port, _ := strings.Cut(upstream, ":")
	return b.startDovecot(ctx, name, strings.NewReplacer("UPSTREAM_HOST", host, "UPSTREAM_PORT", port).Replace(imapcConfig))
}

func (b *bench) startDovecot(ctx context.Context, name, config string) (*dovecot, error) {
	program, err := exec.LookPath("dovecot")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/dovecot"); err != nil {
			return nil, errors.New("no Dovecot here: apt-get install dovecot-imapd dovecot-pop3d")
		}
	}
	server, err := b.newServer(name, "mail")
	if err != nil {
		return nil, err
	}
	d := &dovecot{Server: server}
	if err := d.prepare(b, config); err != nil {
		return nil, err
	}
	return d, start(ctx, server, "+OK", d.pop3, program, "-F", "-c", filepath.Join(d.Dir, dovecotConf))
}

const dovecotConf = "dovecot.conf"

func (d *dovecot) prepare(b *bench, config string) error {
	group, err := user.LookupGroupId(d.As.Gid)
	if err := errors.Join(err, d.Hold(&d.imap, &d.imaps, &d.pop3), d.MakeDirs("run", "state", "mail")); err != nil {
		return err
	}
	return d.Write(dovecotConf, strings.NewReplacer(
		"CERT_FILE", b.certFile, "KEY_FILE", b.keyFile,
		"DIR", d.Dir, "USER", d.As.Username, "GROUP", group.Name, "UID", d.As.Uid, "GID", d.As.Gid, "PASSWORD", password,
		"IMAPS_PORT", portOf(d.imaps), "IMAP_PORT", portOf(d.imap), "POP3_PORT", portOf(d.pop3),
	).Replace(commonConfig+config))
}

func portOf(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

// Every process runs as the same user without privileges, login processes and
// POP3 processes live on from session to session, and nothing is synced to disk.
const commonConfig = `
base_dir = DIR/run
state_dir = DIR/state
log_path = DIR/log
info_log_path = /dev/null
protocols = imap pop3
default_internal_user = USER
default_internal_group = GROUP
default_login_user = USER
default_vsz_limit = 0
default_process_limit = 4000
default_client_limit = 10000
mail_max_userip_connections = 0
auth_failure_delay = 0
mail_fsync = never
ssl = yes
ssl_cert = <CERT_FILE
ssl_key = <KEY_FILE
disable_plaintext_auth = no
auth_mechanisms = plain
passdb {
  driver = static
  args = password=PASSWORD
}
userdb {
  driver = static
  args = uid=UID gid=GID home=DIR/mail/%u
}
first_valid_uid = 1
first_valid_gid = 1
service anvil {
  chroot =
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service imap-login {
  chroot =
  service_count = 0
  process_min_avail = 2
  inet_listener imap {
    address = 127.0.0.1
    port = IMAP_PORT
  }
  inet_listener imaps {
    address = 127.0.0.1
    port = IMAPS_PORT
    ssl = yes
  }
}
service pop3-login {
  chroot =
  service_count = 0
  process_min_avail = 2
  inet_listener pop3 {
    address = 127.0.0.1
    port = POP3_PORT
  }
  inet_listener pop3s {
    port = 0
  }
}
service pop3 {
  service_count = 10000
  process_min_avail = 2
}
`

const storageConfig = `
mail_location = sdbox:~/sdbox
service imap {
  service_count = 10000
  process_min_avail = 2
  client_limit = 32
}
`

// rfc822.size spares the first listing a body for each message, and
// fetch-headers TOP some of the bodies; without flag updates RETR is one
// command.
const imapcConfig = `
mail_location = imapc:~/imapc
imapc_host = UPSTREAM_HOST
imapc_port = UPSTREAM_PORT
imapc_user = %u
imapc_password = PASSWORD
imapc_features = rfc822.size fetch-headers
pop3_no_flag_updates = yes
pop3_fast_size_lookups = yes
pop3_uidl_format = %08Xu%08Xv
`
