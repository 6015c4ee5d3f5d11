#!/bin/sh
# The Android app to be given away, signed with a key of one's own. `make apk-key` and `make apk-release` call it:
#   apk_release.sh key FILE     makes the key, once; whoever has it can publish updates: keep it, and its password, safe
#   apk_release.sh build FILE   build/apk/mobile-bundle-demo-release.apk, signed with it and verified
# The password of the key is read from the environment, APK_KEY_PASSWORD, so that no list of processes shows it.
set -eu

usage() {
    echo "$1" >&2
    exit 2
}

command=${1:-}
key=${2:-}
[ -n "$key" ] || usage "KEY is missing; say which key signs the app: make apk-release KEY=release.p12"
[ "$(printf %s "${APK_KEY_PASSWORD:-}" | wc -c)" -ge 6 ] ||
    usage "APK_KEY_PASSWORD is missing or shorter than 6 characters; export the password of the key"
export APK_KEY_PASSWORD

case $command in
key)
    if [ -e "$key" ]; then
        echo "$key is there already; a new key could not sign updates of what the old one signed" >&2
        exit 1
    fi
    umask 077
    keytool -genkeypair -keystore "$key" -storetype PKCS12 -storepass:env APK_KEY_PASSWORD -alias release \
        -keyalg RSA -keysize 4096 -validity 20000 -dname 'CN=Mobile Bundle'
    ;;
build)
    [ -f "$key" ] || usage "there is no key at $key; make one: make apk-key KEY=$key"
    key=$(realpath "$key")
    root=$(dirname "$(dirname "$(realpath "$0")")")
    apk=$root/build/apk/mobile-bundle-demo-release.apk
    mvn --batch-mode --no-transfer-progress --quiet -f "$root/android_demo/pom.xml" package -Prelease \
        -DskipTests -Dmaven.test.skip "-Dsign.keystore=$key"
    apksigner verify --min-sdk-version 26 "$apk"
    ls -l "$apk"
    ;;
*)
    usage "apk_release.sh key FILE, or apk_release.sh build FILE"
    ;;
esac
