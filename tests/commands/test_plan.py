"""Plans for a TPU that is not there: what is refused, what the numbers are; with libtpu, a whole one."""

import importlib.util
import itertools
import json
import pathlib
import types

import jax
import pytest
from helpers import tiny_config, toy_config, toy_sets_config

from mtan_jax.commands import plan
from mtan_jax.commands.plan_measurements import Chip, measure
from mtan_jax.experiment import Experiment
from mtan_jax.runtime import parallel
from mtan_jax.training import evaluation

HERE = pathlib.Path(__file__).parents[1] / "helpers"
NUMBERS = {
    "memory_bytes_per_chip",
    "flops_per_step",
    "bytes_per_step",
    "compute_seconds",
    "memory_seconds",
    "best_step_seconds",
}


def make(module, folder=None, **fields):
    config = module.get_config()
    config.data.data_dir = folder and str(folder)
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return Experiment.from_config(config)


@pytest.mark.parametrize(
    ("module", "fields"),
    [(toy_config, {}), (toy_config, {"weighting": "auto_lambda"}), (toy_sets_config, {})],
    ids=["dense", "second batch", "sets"],
)
def test_the_planned_batch_is_that_of_training(module, fields, tmp_path):
    experiment = make(module, tmp_path, **fields)
    experiment.data.prepare()
    stream = experiment.train_batches(0)
    (real,) = itertools.islice(map(evaluation.without_ids, stream), 1)
    stream.close()
    _, state, planned = plan.planned_step(experiment, jax.devices())

    def kinds(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    assert kinds(planned) == kinds(parallel.place_batch(real))
    assert kinds(state) == kinds(experiment.abstract_state())


@pytest.mark.slow
def test_numbers_follow_from_the_program(tmp_path):
    experiment = make(tiny_config)
    step, state, batch = plan.planned_step(experiment, jax.devices()[:2])
    compiled = step.lower(state, batch).compile()
    chip = Chip(flops=1e12, bandwidth=1e9, memory=2**30, example="")
    found = measure(compiled, chip, experiment)
    cost = compiled.cost_analysis()
    assert found["fits"]
    assert (found["flops_per_step"], found["bytes_per_step"]) == (cost["flops"], cost["bytes accessed"])
    assert found["compute_seconds"] == pytest.approx(cost["flops"] / 1e12)
    assert found["memory_seconds"] == pytest.approx(cost["bytes accessed"] / 1e9)
    assert found["best_step_seconds"] == max(found["compute_seconds"], found["main_memory_seconds"])
    assert found["best_examples_per_second"] == pytest.approx(4 / found["best_step_seconds"])
    # All parameters are averaged over devices, in float32.
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert found["collective_bytes"] >= 4 * size
    assert found["collectives"] >= 1
    assert found["estimated_cycles"] == 0  # XLA for CPUs gives none
    assert sum(found["parts"].values()) == found["main_memory_bytes_per_step"]
    for part in (
        "backbone/decoder_0, forward",
        "attention/encoder_0, backward",
        "attention/between stages, forward",
        "head_depth, backward",
    ):
        assert found["parts"][part] > 0
    assert not measure(compiled, Chip(1e12, 1e9, 1e4, ""), experiment)["fits"]


@pytest.mark.long
def test_parts_of_a_step_in_a_loop_count_as_often_as_they_run():
    once, twice = (make(tiny_config, accumulate=parts, batch_size=4 * parts) for parts in (1, 2))
    chip = Chip(1e12, 1e9, 2**30, "")
    found = []
    for experiment in (once, twice):
        step, state, batch = plan.planned_step(experiment, jax.devices()[:1])
        found.append(measure(step.lower(state, batch).compile(), chip, experiment))
    # Twice the rows, and one more forward pass: a third to a half of the others.
    assert 2.3 < found[1]["flops_per_step"] / found[0]["flops_per_step"] < 3.2
    assert found[1]["bytes_per_step"] > 2 * found[0]["bytes_per_step"]


@pytest.mark.parametrize("topology", [None, "v5e", "tpu:2x4", "v5e:8"])
def test_a_topology_is_needed(topology):
    with pytest.raises(plan.PlanError, match=r"config\.plan\.topology = .* such as v4:2x2x2, v5e:2x4, v5p:2x2x2"):
        plan.find_devices(topology)


def test_libtpu_is_needed(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        plan.PlanError, match=r"needs libtpu to compile: pip install -e '\.\[tpu\]' \(no TPU is needed\)"
    ):
        plan.find_devices("v5e:2x4")


def test_a_step_that_does_not_fit_is_reported_and_recorded(monkeypatch, tmp_path):
    """By XLA's own message; the rest of the path is real."""
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded by 4.75G."

    def refuse(options):
        assert options == {"xla_tpu_scoped_vmem_limit_kib": "4096"}
        raise RuntimeError(message)

    experiment = make(tiny_config)
    experiment.config.plan.topology = "v5e:1x2"
    monkeypatch.setattr(plan, "find_devices", lambda topology: jax.devices()[:2])
    lowered = types.SimpleNamespace(compile=refuse)
    step = types.SimpleNamespace(lower=lambda state, batch: lowered)
    monkeypatch.setattr(plan, "planned_step", lambda experiment, devices: (step, None, None))
    with pytest.raises(
        plan.PlanError, match=r"needs 20\.5 GiB, and a device of v5e:1x2 has 16\. Use a smaller config\.bat"
    ):
        plan.plan(experiment, tmp_path)
    written = json.loads((tmp_path / "plan.json").read_text())
    assert (written["fits"], written["memory_bytes_per_chip"]) == (False, 20.5 * 2**30)
    assert written["fusion_memory_kib"] == 4096


def test_a_step_that_needs_more_on_chip_memory_a_fusion_is_compiled_as_in_training(caplog):
    """By XLA's own message."""
    message = (
        "RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom:\nRan out of memory in memory space vmem while allocating"
    )
    asked = []

    def compile_with(options=None):
        asked.append(options)
        if options:
            raise RuntimeError(message)
        return "program"

    lowered = types.SimpleNamespace(compile=compile_with)
    with caplog.at_level("INFO", logger="mtan_jax"):
        assert plan.compile_step(lowered, 4096) == ("program", None)
    assert asked == [{"xla_tpu_scoped_vmem_limit_kib": "4096"}, None]
    assert "config.plan.fusion_memory = 4096 is too low for this step" in caplog.text
    message = "INTERNAL: something else"
    with pytest.raises(RuntimeError, match="something else"):
        plan.compile_step(lowered, 4096)


@pytest.mark.parametrize("kib", [16, 2047, 16385])
def test_fusion_memory_out_of_range_is_refused(kib):
    experiment = make(tiny_config, plan__fusion_memory=kib)
    with pytest.raises(plan.PlanError, match=rf"fusion_memory = {kib}: expected 2048 to 16384 KiB, or 0 to"):
        plan.plan(experiment, None)


def test_devices_must_share_a_batch():
    with pytest.raises(
        ValueError, match=r"config\.batch_size=4 is not divisible by 3 devices; use a multiple of 3, such as 3"
    ):
        plan.planned_step(make(tiny_config), jax.devices()[:3])


def test_a_plan_by_the_program(run_main, tmp_path, capsys, monkeypatch, caplog):
    monkeypatch.setattr(plan, "find_devices", lambda topology: jax.devices()[:2])  # as if they were TPUs
    monkeypatch.setattr(plan, "use_no_devices", lambda: None)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--some=1")
    flags = ["--mode=plan", "--config.plan.topology=v5e:1x2", f"--workdir={tmp_path}"]
    flags += ["--config.plan.fusion_memory=0"]  # an option of XLA for TPUs, which these are not
    jax.config.update("jax_optimization_level", "O1")
    try:
        run_main(f"--config={HERE / 'tiny_config.py'}", *flags)
    finally:
        jax.config.update("jax_optimization_level", "UNKNOWN")
    shown, written = capsys.readouterr().out, json.loads((tmp_path / "plan.json").read_text())
    assert written.keys() >= NUMBERS | {"fits", "collective_bytes", "compile_seconds"}
    assert all(written[name] > 0 for name in NUMBERS)
    assert "image 32x64, 3 tasks, for v5e:1x2: 2 chips with 1 device each, 2 examples per device and step" in shown
    assert "compiling the step for v5e:1x2, which can take minutes" in caplog.text
    assert "a step, at best" in shown
    assert "XLA's estimate        0.0 million cycles" in shown
    assert "instructions, JAX_OPTIMIZATION_LEVEL=O1, LIBTPU_INIT_ARGS=--some=1\n" in shown
    assert (written["optimization_level"], written["libtpu_init_args"]) == ("O1", "--some=1")
    assert written["fusion_memory_kib"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]  # no configuration is claimed, no data read


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_plan_for_a_tpu(run_main, tmp_path, capsys):
    flags = ["--mode=plan", "--config.plan.topology=v5e:2x2", f"--workdir={tmp_path}"]
    try:
        for _ in range(2):  # the second would warn of a program in the cache that it cannot read
            run_main(f"--config={HERE / 'tiny_config.py'}", *flags, f"--config.compilation_cache={tmp_path / 'cache'}")
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_compilation_cache_dir", None)
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["fits"]
    assert all(written[name] > 0 for name in NUMBERS | {"estimated_cycles"})
    assert written["fusion_memory_kib"] == 4096
    assert "4096 KiB on chip per fusion (config.plan.fusion_memory=0: as in training)" in capsys.readouterr().out
    with pytest.raises(plan.PlanError, match="is unknown to libtpu"):
        plan.find_devices("v5e:9x9")
