#!/usr/bin/env bash
# system_packages.sh PROGRAM[=PACKAGE]...: sees that each program is there; as root on Debian or Ubuntu installs the
# package that carries it, otherwise says what is missing.
set -eu
missing=()
for item in "$@"; do
  command -v "${item%%=*}" >/dev/null || missing+=("${item##*=}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "missing system packages: ${missing[*]} (Debian's names). Install them, or run make as root." >&2
  exit 1
fi
