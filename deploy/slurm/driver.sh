#!/usr/bin/env bash
#SBATCH --job-name=dvi-driver
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Runs a Python program that submits its own worker jobs:  sbatch driver.sh fit.py STORE RUN
# Two minutes before the time is up, Slurm sends SIGUSR1. The program is asked to save and end, as a fit with checkpoint=
# does, and this job goes back to the queue. scancel ends it for good, and a fit saves then too.
set -uo pipefail

"${PYTHON:-python}" -u "$@" &
program=$!
again=false
trap 'again=true; kill -TERM $program' USR1
trap 'kill -TERM $program' TERM
while kill -0 $program 2> /dev/null; do
    wait $program # until the program ends, or a signal comes
done
wait $program
code=$?

if $again && [ $code -ne 0 ]; then
    echo "back to the queue"
    trap - TERM
    scontrol requeue "$SLURM_JOB_ID" && sleep 60 # until Slurm ends this script, as a part of the requeue
fi
exit $code
