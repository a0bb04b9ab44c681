"""How much there is in the compiled step of a small network: a change that makes it larger shows here, timed nowhere.

Where a change is meant to be, the numbers printed by a failure take the place of those stored.
"""

import importlib.metadata

import jax
import jax.numpy as jnp
import pytest
from helpers import tiny_config

from mtan_jax.commands import hlo, plan
from mtan_jax.experiment import Experiment
from mtan_jax.models import ops

# Of one device. Version of jaxlib -> what XLA for CPUs counts; of loops, what one of their runs does.
STORED = {
    "0.10.2": {
        # the step of tests/helpers/tiny_config.py
        "step": {"flops": 181_947_824, "bytes": 127_228_312, "temporary": 14_531_844, "instructions": 22_893},
        # a convolution and its gradients, with many channels
        "convolution": {"flops": 5_335_826_432, "bytes": 51_937_424, "temporary": 12_288_068, "instructions": 171},
    }
}
MARGIN = {"flops": 0.02, "bytes": 0.05, "temporary": 0.05, "instructions": 0.05}
OF_OTHER_VERSIONS = 0.5  # other versions fuse otherwise


def test_the_step_is_no_larger_than_it_was():
    experiment = Experiment.from_config(tiny_config.get_config())
    step, state, batch = plan.planned_step(experiment, jax.devices()[:1])
    compare("step", step.lower(state, batch).compile())


def test_a_large_convolution_is_no_larger_than_it_was():
    def both(x, kernel, cotangent):
        y, pull = jax.vjp(ops.conv, x, kernel)
        return y, pull(cotangent)

    shapes = (2, 64, 64, 128), (3, 3, 128, 128), (2, 64, 64, 128)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compare("convolution", jax.jit(both).lower(*arrays).compile())


def compare(name, compiled):
    cost = compiled.cost_analysis()
    found = {
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "temporary": compiled.memory_analysis().temp_size_in_bytes,
        "instructions": hlo.count_instructions(compiled.as_text()),
    }
    version = importlib.metadata.version("jaxlib")
    stored = STORED.get(version, STORED["0.10.2"])[name]
    for quantity, value in found.items():
        margin = MARGIN[quantity] if version in STORED else OF_OTHER_VERSIONS
        assert value == pytest.approx(stored[quantity], rel=margin), found
