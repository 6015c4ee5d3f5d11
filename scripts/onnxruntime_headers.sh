#!/usr/bin/env bash
# onnxruntime_headers.sh DIR: puts ONNX Runtime's C headers into DIR (DIR/onnxruntime_c_api.h), from Debian's or
# Ubuntu's libonnxruntime-dev. The package is only unpacked there; nothing is installed. Headers of 1.21 serve every
# later runtime, and neither the Python package nor the Android one has any. Does nothing if they are there already.
set -eu
target=${1:?usage: onnxruntime_headers.sh DIR}
package=libonnxruntime-dev
suite=trixie # the first release of Debian that has it

give_up() {
  echo "ONNX Runtime's C headers cannot be fetched: $1. Give CMake a folder with onnxruntime_c_api.h of version 1.21" \
    "or later: -DMB_ONNXRUNTIME_INCLUDE=DIR" >&2
  exit 1
}

[ -e "$target/onnxruntime_c_api.h" ] && exit 0
command -v apt-get >/dev/null || give_up "there is no apt-get"
command -v dpkg-deb >/dev/null || give_up "there is no dpkg-deb"
# A fresh machine has no lists of packages yet.
if [ "$(id -u)" = 0 ] && ! apt-cache show base-files >/dev/null 2>&1; then apt-get update -qq; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
options=()
if ! apt-cache show "$package" >/dev/null 2>&1; then
  # Debian 12: ask the mirror that apt uses already for the next release, with lists and cache of our own.
  source=$(apt-get indextargets --format '$(REPO_URI)|$(CODENAME)|$(COMPONENT)' 2>/dev/null |
    grep '|main$' | grep -v -e '-security|' -e '-updates|' -e '-backports|' | head -n 1)
  [ -n "$source" ] || give_up "apt has no list of packages; run apt-get update"
  keys=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -e "$keys" ] || give_up "this is not Debian, and its own packages have no $package"
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  echo "deb [signed-by=$keys] ${source%%|*} $suite main" >"$work/sources.list"
  options=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "Dir::Etc::SourceList=$work/sources.list"
    -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User=root)
  apt-get "${options[@]}" -qq update 2>"$work/log" || give_up "$(tail -n 1 "$work/log")"
fi
(cd "$work" && apt-get "${options[@]}" -qq download "$package" >/dev/null 2>"$work/log") ||
  give_up "$(tail -n 1 "$work/log")"
dpkg-deb -x "$work"/*.deb "$work/unpacked"
header=$(find "$work/unpacked" -name onnxruntime_c_api.h | head -n 1)
[ -n "$header" ] || give_up "$package holds no onnxruntime_c_api.h"
mkdir -p "$target"
cp "$(dirname "$header")"/*.h "$target/"
