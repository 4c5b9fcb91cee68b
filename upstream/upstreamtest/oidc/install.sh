#!/bin/sh
# install.sh puts the authorization server of the tests, with the versions that
# package-lock.json names, into OIDC_ROOT (/opt/postern-oidc). A second run does
# nothing. Needs Node.js 18 or later and npm, both Debian 12's own, and whoever
# may write there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=${OIDC_ROOT:-/opt/postern-oidc}

mkdir -p "$root"
exec 9>"$root/.lock"
flock 9 # two runs at once
if [ -e "$root/.installed" ] && cmp -s "$here/package-lock.json" "$root/.installed"; then
  exit 0
fi
rm -f "$root/.installed"
cp "$here/package.json" "$here/package-lock.json" "$root/"
(cd "$root" && npm ci --silent --no-audit --no-fund --ignore-scripts --omit=dev)
cp "$here/package-lock.json" "$root/.installed"
