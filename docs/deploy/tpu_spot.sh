#!/bin/bash
# Keeps a spot slice of docs/cloud_tpu.md alive: requests it again whenever it was preempted. Stop it with Ctrl-C when
# the run is complete. It needs the variables PROJECT, ZONE, NAME, TYPE, RUNTIME and SERVICE_ACCOUNT.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

while true; do
    state=$(gcloud compute tpus queued-resources describe "$NAME" --project="$PROJECT" --zone="$ZONE" \
        --format="value(state.state)") || state=NONE
    if [ "$state" = SUSPENDED ] || [ "$state" = FAILED ]; then
        gcloud compute tpus queued-resources delete "$NAME" --project="$PROJECT" --zone="$ZONE" --force --quiet
        state=NONE
    fi
    if [ "$state" = NONE ]; then
        gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --project="$PROJECT" --zone="$ZONE" \
            --accelerator-type="$TYPE" --runtime-version="$RUNTIME" --service-account="$SERVICE_ACCOUNT" --spot \
            --metadata-from-file=startup-script=tpu_startup.sh || true # for example no quota: try again
    fi
    sleep 60
done
