#!/bin/bash
# sbatch docs/slurm.sh, from the checkout. Data, checkout and OUT lie on a file system that all nodes see.
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
export PATH="$PWD/.venv/bin:$PATH"
read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # the first node
port=$((20000 + SLURM_JOB_ID % 10000)) # a port of its own for each job
again=()
if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 ]]; then again=(--take-over); fi # a killed job leaves its lock, and Slurm has ended that job

# One torchrun on each node starts one process for each GPU.
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d --rdzv-endpoint "$head:$port" --rdzv-id "$SLURM_JOB_ID" \
    -m course_lib run proca --recipe gta5_cityscapes --data-root "$data" --skip-bad --out "$out" --quiet \
    --set "network_options={'bn': 'sync'}" "${again[@]}" &
step=$!

# SIGTERM comes 300 s before the time limit (--signal), or when the job is pre-empted. srun passes it to every torchrun, and that to
# its processes: they finish and save the step that they are in.
stopping=
trap 'stopping=yes; kill -TERM "$step" || true' TERM

status=0
wait "$step" || status=$? # a signal ends this wait early
if [[ -n $stopping ]]; then
    while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done
    scontrol requeue "$SLURM_JOB_ID" # the same script again, hence the same command, which continues where it stopped
    exit 0
fi
exit "$status"
