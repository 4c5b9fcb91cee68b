#!/bin/bash
# install.sh unpacks Debian's Cyrus IMAP 3.6, built with JMAP, into CYRUS_ROOT
# (/opt/postern-cyrus). A second run does nothing. Needs root on Debian 12.
#
# Cyrus is not installed as a package: cyrus-imapd conflicts with
# dovecot-imapd, and cyrus-common brings a mail transport agent, a system user
# and a service. Only the libraries and SASL plug-ins that it loads are
# installed; packages already there stay as they are.
set -euo pipefail

root=${CYRUS_ROOT:-/opt/postern-cyrus}
stamp=$root/.installed
libraries="libbrotli1 libcom-err2 libdb5.3 libgssapi-krb5-2 libical3 libicu72
  libjansson4 libkrb5-3 libldap-2.5-0 libnghttp2-14 libpcre3 libpq5 libsasl2-2
  libsasl2-modules libsasl2-modules-db libshp2 libsqlite3-0 libssl3 libstdc++6
  libuuid1 libwrap0 libxapian30 libxml2 libzstd1 zlib1g"
packages="cyrus-common cyrus-caldav cyrus-imapd cyrus-pop3d sasl2-bin"

[ -e "$stamp" ] && exit 0
mkdir -p "$root"
exec 9>"$root/.lock"
flock 9 # two runs at once
[ -e "$stamp" ] && exit 0

export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@" >/dev/null; }
apt update
# shellcheck disable=SC2086
apt install -y --no-install-recommends --no-upgrade $libraries

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2086
(cd "$work" && apt -o APT::Sandbox::User=root download $packages)
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$root"; done
chmod 755 "$root" # Cyrus drops root

LD_LIBRARY_PATH=$(echo "$root"/usr/lib/*-linux-gnu)
export LD_LIBRARY_PATH
for binary in master httpd imapd pop3d ctl_cyrusdb; do
  if ldd "$root/usr/lib/cyrus/bin/$binary" | grep 'not found'; then
    echo "install.sh: $binary lacks a library" >&2
    exit 1
  fi
done
if ! "$root/usr/lib/cyrus/bin/cyr_buildinfo" | grep -q '"jmap": true'; then
  echo "install.sh: this Cyrus was built without JMAP" >&2
  exit 1
fi
touch "$stamp"
