#!/usr/bin/env bash
# Ends the jobs and the processes of the Slurm that up.sh has started, and removes its files.
set -uo pipefail

root=${DVI_SLURM:-/tmp/dvi-slurm}
export SLURM_CONF="$root/slurm.conf"
[ -s "$SLURM_CONF" ] || exit 0

end() {
    [ -s "$1" ] || return 0
    local pid
    pid=$(cat "$1")
    kill "$pid" 2> /dev/null
    for _ in $(seq 50); do
        kill -0 "$pid" 2> /dev/null || return 0
        sleep 0.1
    done
    kill -9 "$pid" 2> /dev/null
}

scancel --user="$(id -un)"
for _ in $(seq 50); do
    [ -z "$(squeue --noheader 2> /dev/null)" ] && break
    sleep 0.2
done
for name in slurmd.n1 slurmd.n2 slurmctld munged; do
    end "$root/run/$name.pid"
done
rm -rf "$root"
