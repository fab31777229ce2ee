#!/usr/bin/env bash
# A Slurm of two nodes on this machine, for tests: munged, slurmctld and two slurmd, all on loopback, without systemd.
# Needs root. Run again, it starts only what is missing. Prints where its configuration is.
set -euo pipefail

root=${DVI_SLURM:-/tmp/dvi-slurm}
host=$(hostname -s)
nodes=2

if ! type slurmctld munged > /dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null
fi

runs() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2> /dev/null; }

mkdir -p "$root"/{state,log,spool,run}
chmod 755 "$root" "$root"/*
memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 / nodes - 256)) # MB of a node
{
    cat << CONFIG
ClusterName=dvi
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$root/run/munge.socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool/%n
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmdPidFile=$root/run/slurmd.%n.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,bf_interval=1,batch_sched_delay=0
KillWait=5
MinJobAge=600
ReturnToService=2
InactiveLimit=0
CONFIG
    for i in $(seq $nodes); do
        echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17000 + i)) CPUs=$(nproc) RealMemory=$memory"
    done
    echo "PartitionName=debug Nodes=n[1-$nodes] Default=YES State=UP"
} > "$root/slurm.conf"
export SLURM_CONF="$root/slurm.conf"

[ -s "$root/munge.key" ] || (umask 077 && head -c 128 /dev/urandom > "$root/munge.key")
runs "$root/run/munged.pid" || munged --force --key-file="$root/munge.key" --socket="$root/run/munge.socket" \
    --pid-file="$root/run/munged.pid" --log-file="$root/log/munged.log" --seed-file="$root/state/munge.seed"
runs "$root/run/slurmctld.pid" || slurmctld -c
for i in $(seq $nodes); do
    runs "$root/run/slurmd.n$i.pid" || slurmd -N "n$i"
done

for _ in $(seq 100); do
    if [ "$(sinfo --noheader --Node --states=idle,alloc,mix 2> /dev/null | wc -l)" -eq $nodes ]; then
        echo "$SLURM_CONF"
        exit 0
    fi
    sleep 0.2
done
sinfo >&2
tail -n 20 "$root"/log/*.log >&2
echo "Slurm did not come up within 20 s" >&2
exit 1
