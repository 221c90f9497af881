#!/usr/bin/env bash
# Measures a GPU node: the bench, then a whole job and its report, with the seconds of each phase.
#
#     results/bench/gpu.sh DATASET OUT [JOB]
#
# DATASET is a packed file, OUT an empty folder; JOB is `paper` unless told otherwise. WIDTHS="16 64", PARTS="training
# sweep startup" and WORKERS=4 (cells at once on a GPU) can be set. Needs hpcseg on PATH, and no Slurm.
set -euo pipefail
data=$(realpath "$1") out=$(realpath -m "$2") job=${3:-paper}
mkdir -p "$out"

phase() {
    local name=$1 started ended
    shift
    started=$(date +%s.%N)
    "$@"
    ended=$(date +%s.%N)
    awk -v name="$name" -v a="$started" -v b="$ended" 'BEGIN { printf "%s\t%.1f\n", name, b - a }' | tee -a "$out/phases.tsv"
}

bench() {
    local options=()
    for width in ${WIDTHS:-16 64}; do options+=(--width "$width"); done
    for part in ${PARTS:-training sweep startup}; do options+=(--part "$part"); done
    hpcseg bench --data "$data" --run "$out/runs" --rounds 3 --seconds 2 "${options[@]}" --json > "$out/bench.json"
}

# What the GPU does while the job runs: one line per second of name, use, memory and power.
watch_gpu() {
    nvidia-smi --query-gpu=timestamp,name,utilization.gpu,memory.used,power.draw --format=csv -l 1 > "$out/gpu.csv" &
    watcher=$!
    trap 'kill "$watcher" 2>/dev/null || true' EXIT
}

(nvidia-smi || echo "no GPU here") | tee "$out/nvidia-smi.txt"
phase bench bench
if command -v nvidia-smi > /dev/null; then watch_gpu; fi
phase grid hpcseg grid --job "$job" --data "$data" --run "$out/runs/$job" --local --workers "${WORKERS:-4}"
phase report hpcseg report --run "$out/runs/$job" --publish "$out/$job"
cat "$out/phases.tsv"
