#!/bin/sh
# install.sh installs what the tests against real servers and with real POP3
# clients need, on Debian 12. Root; for anybody else it says what is missing.
# What is there already stays as it is, and no service is started.
set -eu
here=$(dirname "$0")

servers="dovecot-imapd dovecot-pop3d"
clients="curl fetchmail getmail6 mpop openssl python3"
build="ca-certificates gcc libc6-dev" # go test -race needs a C compiler

missing=""
for package in $servers $clients $build; do
  case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
  installed) ;;
  *) missing="$missing $package" ;;
  esac
done


# Programs that may be there in another way than as Debian's package.
while read -r program package; do
  command -v "$program" >/dev/null || missing="$missing $package"
done <<END
node nodejs
npm npm
chromium chromium
END

if [ "$(id -u)" != 0 ]; then
  cyrus=${CYRUS_ROOT:-/opt/postern-cyrus}/.installed
  [ -e "$cyrus" ] || missing="$missing and Cyrus"
  oidc=${OIDC_ROOT:-/opt/postern-oidc}/.installed
  [ -e "$oidc" ] || missing="$missing and oidc-provider"
  [ -z "$missing" ] && exit 0
  echo "The tests need$missing. To install them: sudo $0" >&2
  echo "To run only what needs nothing installed: go test ./..." >&2
  exit 1
fi

if [ -n "$missing" ]; then
  # Debian starts a service as it is installed, unless this script forbids it.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt="apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3"
  $apt update
  # shellcheck disable=SC2086
  $apt install -y --no-install-recommends --no-upgrade $missing >/dev/null
fi
[ ! -e "$here/cyrus/install.sh" ] || "$here/cyrus/install.sh"
[ ! -e "$here/oidc/install.sh" ] || "$here/oidc/install.sh"
