#!/bin/sh
# Build deploy/Dockerfile and run what is in it, as the user that it names.
# Needs buildah; and, where docker.io cannot be reached, root and debootstrap for a local base of the same name.
set -eu
cd "$(dirname "$0")/../.."
base=docker.io/library/debian:trixie-slim
tag=localhost/dvi:test
store="--storage-driver vfs"
isolation="--isolation chroot"

# shellcheck disable=SC2086  # options that are to be split
{
    buildah inspect $store --type image "$base" >/dev/null 2>&1 \
        || buildah pull $store --quiet "$base" >/dev/null 2>&1 \
        || sh tests/deploy/base.sh "$base"
    buildah bud $store $isolation --format docker --quiet --file deploy/Dockerfile --tag "$tag" .
    container=$(buildah from $store "$tag")
    trap 'buildah rm $store "$container" >/dev/null' EXIT

    inside() {
        buildah run $store $isolation "$container" -- dvi-entrypoint "$@"
    }
    [ "$(inside id -u)" = 10001 ]
    inside dvi --version
    inside sh -c '! touch /opt/dvi/x 2>/dev/null'
    inside sh -c 'find /var/cache/dvi/kernels -name "*.nbi" | grep -q .'
    inside sh -c 'echo "[data]" > /tmp/retrain.toml; dvi retrain /tmp/retrain.toml --log-format json; [ $? = 78 ]'
    inside dvi demo --threads --steps 20 --out /tmp/demo
    inside python3 -c 'import obstore, prometheus_client, dask_kubernetes.operator, pyarrow'
    buildah inspect $store --format '{{range $k, $v := .Docker.Config.Labels}}{{$k}}={{$v}}{{println}}{{end}}' "$tag" \
        | grep -q '^org.opencontainers.image.licenses=Apache-2.0$'
    buildah inspect $store --format '{{.Docker.Config.Healthcheck}}' "$tag" | grep -q -- --version
}
echo "1 passed, 0 failed"
