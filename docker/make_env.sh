#!/bin/sh
# Writes .env from .env.example with new secrets; fails if it exists. Run by `make env`.
set -eu
cd "$(dirname "$0")/.."
target="${1:-.env}"

if [ -e "$target" ]; then
    echo "$target already exists: to create a new one, remove it and the volumes that were initialized with its passwords" >&2
    exit 1
fi
umask 077
while IFS= read -r line; do
    case "$line" in
        LYRA_*_PASSWORD= | LYRA_*_SECRET_KEY=) printf '%s%s\n' "$line" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" ;;
        *) printf '%s\n' "$line" ;;
    esac
done <.env.example >"$target"
echo "wrote $target with new secrets"
