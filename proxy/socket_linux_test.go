package proxy

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// What a listener accepts has the options that find a dead peer within 30 s.
func TestFaultC4DeadPeer(t *testing.T) {
	l, err := bind(Listener{Address: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	get := func(level, option int) (value int) {
		if err := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, option) }); err != nil {
			t.Fatal(err)
		}
		return value
	}
	if get(unix.SOL_SOCKET, unix.SO_KEEPALIVE) == 0 {
		t.Error("keep-alive is off")
	}
	idle, interval, count := get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL), get(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	if total := idle + interval*count; total != 30 {
		t.Errorf("a dead idle peer is found after %d s (%d + %d * %d), want 30", total, idle, interval, count)
	}
	if got := get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); got != 30_000 {
		t.Errorf("TCP_USER_TIMEOUT: got %d ms, want 30000", got)
	}
}
