#!/bin/bash
# Startup script of docs/cloud_tpu.md. It runs as root on every host of a slice, whenever the host boots: installs
# mtan_jax if it is missing, and trains. Replace my-bucket.
set -euo pipefail
BUCKET=my-bucket
export HOME=/root

if [ ! -x /opt/mtan_jax/.venv/bin/mtan-jax ]; then
    curl -LsSf https://astral.sh/uv/install.sh | sh
    rm -rf /opt/mtan_jax
    git clone https://github.com/mtan-jax/mtan_jax /opt/mtan_jax
    cd /opt/mtan_jax
    /root/.local/bin/uv venv --python=3.12
    /root/.local/bin/uv pip install -e ".[tpu,gcs]"
fi

# A service of its own receives SIGTERM while the network is still up. systemd starts it again after any failure.
systemd-run --unit=mtan --property=After=network-online.target --property=Restart=on-failure \
    --property=RestartSec=30 --property=TimeoutStopSec=30 --working-directory=/opt/mtan_jax --setenv=HOME=/root \
    /opt/mtan_jax/.venv/bin/python -m mtan_jax.main --config=configs/cityscapes.py --coordinator=auto \
    --workdir="gs://$BUCKET/runs/cityscapes" --config.data.raw_dir="gs://$BUCKET/cityscapes" \
    --config.data.data_dir="gs://$BUCKET/tensorflow_datasets" --config.model.dtype=bfloat16 --config.batch_size=128
