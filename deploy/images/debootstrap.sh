#!/usr/bin/env bash
# Makes a Debian base image on a machine that reaches Debian's packages and no registry of images:
#   deploy/images/debootstrap.sh localhost/synthmix/debian:bookworm
#   make images BASE_IMAGE=localhost/synthmix/debian:bookworm
# Needs root, debootstrap, and docker, podman or buildah.
set -euo pipefail
image=$1
tool=${CONTAINER_TOOL:-$(command -v docker || command -v podman || command -v buildah)}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# What debian:bookworm-slim leaves out, too: nothing of it is read by a service.
debootstrap --variant=minbase bookworm "$root/debian"
rm -rf "$root"/debian/usr/share/{doc,man,locale,info,lintian,groff,linda}/* \
  "$root"/debian/var/{cache/apt,lib/apt/lists,log}/*

printf 'FROM scratch\nADD debian.tar /\nCMD ["bash"]\n' >"$root/Dockerfile"
tar --create --file "$root/debian.tar" --directory "$root/debian" .
"$tool" build --tag "$image" --file "$root/Dockerfile" "$root"
