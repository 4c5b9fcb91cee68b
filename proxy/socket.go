package proxy

import (
	"net"
	"time"
)

// deadPeer is how long a peer that has vanished without a word may hold its
// session, and with it the maildrop.
const deadPeer = 30 * time.Second

// keepAlive finds a dead peer on an idle connection: 15 s of silence, then
// three probes 5 s apart.
var keepAlive = net.KeepAliveConfig{
	Enable:   true,
	Idle:     deadPeer / 2,
	Interval: deadPeer / 6,
	Count:    3,
}
