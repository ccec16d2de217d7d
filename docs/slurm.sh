#!/bin/bash
# Slurm: sbatch docs/slurm.sh, from the checkout. Two nodes of two GPUs; data, checkout and OUT on a file system that all nodes see.
#SBATCH --job-name=uda
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
#SBATCH --open-mode=append
#SBATCH --output=uda-%j.log
set -euo pipefail

out=${OUT:-runs/proca}
data=${DATA:-/data}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # each job its own
source .venv/bin/activate

# SIGTERM comes 300 s before the time is over (--signal) or when the job is pre-empted. It is passed on to torchrun on every node,
# and from there to the processes, which finish and save the step that they are in; torchrun gives them 30 s.
stopping=
trap 'stopping=yes; kill -TERM "$step" || true' TERM

# one torchrun for each node; it starts one process for each GPU
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d --rdzv-endpoint "$head:$port" --rdzv-id "$SLURM_JOB_ID" \
    -m course_lib run proca --recipe gta5_cityscapes --data-root "$data" --skip-bad --out "$out" --quiet \
    --set "network_options={'bn': 'sync'}" &
step=$!
status=0
wait "$step" || status=$? # ends early when the trap runs

if [[ -n $stopping ]]; then
    wait "$step" || true # until all have saved
    scontrol requeue "$SLURM_JOB_ID" # queued again, the job runs this script again: the same command continues where it stopped
    exit 0
fi
exit "$status"
