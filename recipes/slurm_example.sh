#!/usr/bin/env bash
# CNN/DailyMail on two machines of eight GPUs: sbatch recipes/slurm_example.sh (from the clone, environment activated).
# After the time limit, sbatch it again: it goes on from the last checkpoint.
#SBATCH --job-name=srformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
set -euo pipefail

# a folder that all machines see
settings=(--out "$PWD/experiments/cnn_dailymail-bart" --raw "$PWD/raw/cnn_dailymail" --gpus 8 --batch-size 64)

bash recipes/cnn_dailymail.sh "${settings[@]}" --to binarise
# one task a machine: the recipe starts its eight processes and finds the other machine; srun may not take sbatch's cores
srun -c "$SLURM_CPUS_PER_TASK" bash recipes/cnn_dailymail.sh "${settings[@]}" --nodes "$SLURM_JOB_NUM_NODES" --only train
bash recipes/cnn_dailymail.sh "${settings[@]}" --from generate
