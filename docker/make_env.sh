#!/bin/sh
# Writes .env from .env.example, with new secrets in it; refuses where there is one. `make env` runs it.
set -eu
cd "$(dirname "$0")/.."
target="${1:-.env}"

if [ -e "$target" ]; then
    echo "$target is there already: remove it for a new one, and with it the volumes that know its passwords" >&2
    exit 1
fi
umask 077
while IFS= read -r line; do
    case "$line" in
        LYRA_*_PASSWORD= | LYRA_*_SECRET_KEY=) printf '%s%s\n' "$line" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" ;;
        *) printf '%s\n' "$line" ;;
    esac
done <.env.example >"$target"
echo "$target is written, with new secrets"
