#!/usr/bin/env bash
# Proves the README's two commands on a clone of HEAD, as a new user on a fresh machine would type them: an empty HOME,
# empty cargo and pip caches, and on the PATH only cargo, a C++ compiler, cmake, python3 and the system's basics.
# Settings that name a package mirror or a certificate are kept, because without them some networks reach nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
room=$(mktemp -d "${TMPDIR:-/tmp}/ollmlx-clean-room.XXXXXX")
trap 'pkill -f "$room" 2>/dev/null || true; rm -rf "$room"' EXIT
mkdir -p "$room/home" "$room/bin"

# The toolchain's own directory: with an empty HOME rustup's proxies find none.
toolchain=$(dirname "$(rustc --print sysroot)/bin/cargo")
for tool in c++ cc g++ gcc cpp ld as ar ranlib cmake make python3 git bash sh env uname mkdir rm cp mv ln ls cat sed grep \
  dirname basename mktemp chmod touch head tail tr sort true false sleep pkill id; do
  found=$(command -v "$tool" || true)
  [ -n "$found" ] && ln -sf "$(readlink -f "$found")" "$room/bin/$tool"
done
# A linked interpreter would lose its own prefix: a small script keeps it.
python=$(python3 -c 'import sys; print(sys.executable)')
rm -f "$room/bin/python3"
printf '#!/bin/sh\nexec "%s" "$@"\n' "$python" > "$room/bin/python3"
chmod +x "$room/bin/python3"

keep=()
while IFS='=' read -r name value; do
  case "$name" in
    PIP_INDEX_URL|PIP_FIND_LINKS|PIP_CERT|PIP_TRUSTED_HOST|SSL_CERT_FILE|SSL_CERT_DIR|HTTP_PROXY|HTTPS_PROXY|NO_PROXY|http_proxy|https_proxy|no_proxy|CARGO_REGISTRIES_*|CARGO_SOURCE_*|CARGO_HTTP_*|CARGO_NET_*)
      keep+=("$name=$value") ;;
  esac
done < <(env)
clean() { env -i HOME="$room/home" PATH="$toolchain:$room/bin" LANG=C.UTF-8 TERM=dumb "${keep[@]}" "$@"; }
# A mirror named in cargo's or pip's own configuration is part of the machine, not of the user's caches.
for file in config.toml config; do
  [ -f "${CARGO_HOME:-$HOME/.cargo}/$file" ] && mkdir -p "$room/home/.cargo" && cp "${CARGO_HOME:-$HOME/.cargo}/$file" "$room/home/.cargo/"
done
[ -f "$HOME/.config/pip/pip.conf" ] && mkdir -p "$room/home/.config/pip" && cp "$HOME/.config/pip/pip.conf" "$room/home/.config/pip/"

git clone --quiet "$here" "$room/ollmlx"
cd "$room/ollmlx"
echo "== cargo ollmlx run pocket \"What can you do?\""
SECONDS=0
answer=$(clean OLLAMA_HOST=127.0.0.1:"$((20000 + RANDOM % 20000))" cargo ollmlx run pocket "What can you do?")
printf '%s\n' "$answer"
[ -n "$(printf %s "$answer" | tr -d '[:space:]')" ] || { echo "no text came"; exit 1; }
echo "== that took $SECONDS s"
[ "${1:-}" = --first ] && exit 0
echo "== cargo xtask test"
SECONDS=0
clean cargo xtask test
echo "== that took $SECONDS s; both commands work"
