"""How much there is in the compiled step of a small network: a change that makes it larger shows here, timed nowhere.

Where a change is meant to be, the numbers printed by a failure take the place of those stored.
"""

import importlib.metadata

import jax
import pytest
import tiny_config

from mtan_jax import hlo
from mtan_jax.experiment import Experiment

# Of one device and the step of tests/tiny_config.py. Version of jaxlib -> what XLA for CPUs counts.
STORED = {
    "0.10.2": {"flops": 180_048_096, "bytes": 127_585_632, "temporary": 12_822_856, "instructions": 23_100},
}
MARGIN = {"flops": 0.02, "bytes": 0.05, "temporary": 0.05, "instructions": 0.05}
OF_OTHER_VERSIONS = 0.5  # other versions fuse otherwise


def test_the_step_is_no_larger_than_it_was():
    experiment = Experiment.from_config(tiny_config.get_config())
    step, state, batch = experiment.planned_step(jax.devices()[:1])
    compiled = step.lower(state, batch).compile()
    cost = compiled.cost_analysis()
    found = {
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "temporary": compiled.memory_analysis().temp_size_in_bytes,
        "instructions": hlo.count_instructions(compiled.as_text()),
    }
    version = importlib.metadata.version("jaxlib")
    stored = STORED.get(version, STORED["0.10.2"])
    for name, value in found.items():
        margin = MARGIN[name] if version in STORED else OF_OTHER_VERSIONS
        assert value == pytest.approx(stored[name], rel=margin), found
