# What tools/build, tools/test and tools/run share: where the tree is, quiet steps with their log, packages. Sourced by bash.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cores=$(nproc)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# step NAME COMMAND…: runs quietly; shows the end of the output and stops when it fails.
step() {
  local name=$1 log started=$SECONDS
  shift
  mkdir -p "$root/build/log"
  log="$root/build/log/${name//[^A-Za-z0-9_-]/_}.log"
  printf '%s … ' "$name" >&2
  if "$@" >"$log" 2>&1 </dev/null; then
    printf 'done (%d s)\n' $((SECONDS - started)) >&2
  else
    printf 'FAILED (%d s)\n' $((SECONDS - started)) >&2
    grep -nE 'error:|error |FAILED|undefined reference' "$log" | cut -c1-300 | head -n 20 >&2
    say "--- last lines of $log"
    tail -n 25 "$log" | cut -c1-300 >&2
    return 1
  fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# The names are the same in Debian 12, Debian 13 and Ubuntu 24.04 (there: universe must be enabled).
build_packages="meson ninja-build g++ pkg-config liburing-dev libabsl-dev libmimalloc-dev libgtest-dev libgmock-dev
  libbenchmark-dev libxxhash-dev libhwy-dev libfmt-dev libspdlog-dev libtomlplusplus-dev libcli11-dev libmicrohttpd-dev
  prometheus-cpp-dev nlohmann-json3-dev libidn2-dev libcrypt-dev android-libboringssl-dev"
clang_packages="clang-19 libclang-rt-19-dev llvm-19"
test_packages="clang-tidy-19 clang-format-19 python3 curl swaks libnet-ssleay-perl openssl nsd e2fsprogs xfsprogs mount
  postfix dovecot-lmtpd dovecot-pop3d tinycdb groff-base haproxy msmtp s-nail libio-socket-ssl-perl sslscan testssl.sh"

package_installed() {
  # Debian's pkg-config is a transitional name of pkgconf from 12 on; the program is what counts.
  case $1 in
    pkg-config) command -v pkg-config >/dev/null && return 0 ;;
  esac
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# need_packages PACKAGE…: installs those that are missing. Starts no service and asks no question: Postfix comes along
# for smtp-source and smtp-sink, nsd or Postfix must not take port 53 or 25 of the machine.
need_packages() {
  local missing=() package policy=/usr/sbin/policy-rc.d made=no
  for package in "$@"; do
    package_installed "$package" || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || die "missing: ${missing[*]}; install them (this is no Debian or Ubuntu)"
  [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || die "missing: ${missing[*]}; run: sudo apt-get install ${missing[*]}"
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null && as_root chmod 755 $policy && made=yes
  fi
  local status=0
  install_packages "${missing[@]}" || status=1
  [ $made = no ] || as_root rm -f $policy
  return $status
}

install_packages() {
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
  if printf '%s\n' "$@" | grep -qx postfix && command -v debconf-set-selections >/dev/null; then
    echo 'postfix postfix/main_mailer_type select No configuration' | as_root debconf-set-selections 2>/dev/null
  fi
  if ! apt-cache show "$@" >/dev/null 2>&1; then
    step "package lists" as_root "${apt[@]}" update || return 1
  fi
  if ! step "installing $(printf '%s ' "$@")" as_root "${apt[@]}" install --no-install-recommends "$@"; then
    step "package lists" as_root "${apt[@]}" update || return 1
    step "installing again" as_root "${apt[@]}" install --no-install-recommends "$@"
  fi
}
