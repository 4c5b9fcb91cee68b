"""A POP3 client on Python's poplib, as people write them for their own needs.

poplib_client.py HOST PORT off|stls|implicit CA USER DIR keep|delete

The password is in the environment variable PASSWORD. Every message that is
not in DIR/seen goes to a file in DIR/mail, and its unique-id to DIR/seen.
"""

import os
import poplib
import ssl
import sys

host, port, transport, ca, user, directory, policy = sys.argv[1:]
poplib._MAXLINE = 1 << 20  # the default refuses lines over 2048 octets

try:
    tls = ssl.create_default_context(cafile=ca)
    if transport == "implicit":
        pop = poplib.POP3_SSL(host, int(port), context=tls, timeout=60)
    else:
        pop = poplib.POP3(host, int(port), timeout=60)
    if transport == "stls":
        pop.stls(context=tls)
    pop.user(user)
    pop.pass_(os.environ["PASSWORD"])

    seen_file = os.path.join(directory, "seen")
    seen = set()
    if os.path.exists(seen_file):
        seen = set(open(seen_file, "rb").read().split())
    count, octets = pop.stat()
    if count != len(pop.list()[1]):
        sys.exit("STAT and LIST differ")
    for line in pop.uidl()[1]:
        number, uidl = line.split()
        if uidl in seen:
            continue
        lines = pop.retr(int(number))[1]
        with open(os.path.join(directory, "mail", uidl.decode()), "wb") as f:
            f.writelines(line + b"\r\n" for line in lines)
        with open(seen_file, "ab") as f:
            f.write(uidl + b"\n")
        if policy == "delete":
            pop.dele(int(number))
    pop.quit()
except (poplib.error_proto, OSError, EOFError) as error:
    sys.exit("%s: %s" % (type(error).__name__, error))
