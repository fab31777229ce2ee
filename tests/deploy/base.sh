#!/bin/sh
# Make a local image of the name that deploy/Dockerfile builds on, where that one cannot be pulled: Debian by
# debootstrap, with the certificates that this machine trusts. Needs root, debootstrap and buildah.
set -eu
base=$1
rootfs=$(mktemp -d)
trap 'rm -rf "$rootfs"' EXIT
debootstrap --variant=minbase --include=ca-certificates trixie "$rootfs" ${DEBIAN_MIRROR:-} >/dev/null
cp /etc/ssl/certs/ca-certificates.crt "$rootfs/etc/ssl/certs/ca-certificates.crt"
if [ -d /usr/local/share/ca-certificates ]; then
    cp -R /usr/local/share/ca-certificates/. "$rootfs/usr/local/share/ca-certificates/"
fi
rm -rf "$rootfs"/var/cache/apt/archives/*.deb "$rootfs"/var/lib/apt/lists/*
container=$(buildah from --storage-driver vfs scratch)
buildah copy --storage-driver vfs --quiet "$container" "$rootfs" / >/dev/null
buildah commit --storage-driver vfs --quiet --rm "$container" "$base"
