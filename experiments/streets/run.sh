#!/usr/bin/env bash
# Trains configs/streets.py and keeps what it logged and showed beside this file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
workdir=${1:-runs/streets}
run=(python -m mtan_jax.main --config=configs/streets.py --workdir="$workdir")
"${run[@]}"
"${run[@]}" --mode=predict --count=8
cp "$workdir/metrics.jsonl" "$workdir/figures/curves.png" experiments/streets/
cp "$workdir/figures/val/streets_val_000004.png" docs/images/streets_panel.png
