"""Compiles the step for a TPU v5e, without having one, with masks batched and unrolled; writes tpu.json.

    pip install -e '.[tpu]' && python experiments/task_scaling/tpu.py

On a machine without a TPU: JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost
TPU_ACCELERATOR_TYPE=v5litepod-8 before the command.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from measure import build
from problem import Problem
from variants import VariantMTAN

TOPOLOGY = "v5e:2x4"
WIDTH, SIZE, ROWS = 0.5, (64, 128), 8
TASKS = (2, 3, 10)
OUT = pathlib.Path(__file__).parent / "tpu.json"


def main():
    """Compiles every variant and writes tpu.json after each."""
    device = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices[0]
    records = []
    for num_tasks in TASKS:
        problem = Problem(num_tasks, WIDTH, SIZE, ROWS, compute_dtype=jnp.bfloat16)
        for masks in ("batched", "unrolled"):
            model = VariantMTAN(problem.backbone, problem.tasks, masks, "unrolled")
            state, batch = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SingleDeviceSharding(device)),
                (problem.state(), problem.batch),
            )
            _, built = build(problem.train_step(model), state, batch)
            records.append({"tasks": num_tasks, "masks": masks, **built})
            print(records[-1], flush=True)  # noqa: T201
            setup = {"topology": TOPOLOGY, "width": WIDTH, "size": SIZE, "rows": ROWS, "jax": jax.__version__}
            OUT.write_text(json.dumps({**setup, "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
