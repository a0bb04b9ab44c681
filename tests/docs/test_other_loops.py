"""The code on the pages about other training loops runs, trains, and is as short as the pages say."""

import contextlib
import inspect
import io
import pathlib
import re
import tokenize

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtan_jax.weighting import GRADIENT_METHODS

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "other_loops.md").read_text()
README = (ROOT / "README.md").read_text()
PROGRAMS = sorted((ROOT / "docs" / "loops").glob("*.md"))
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def code_lines(source):
    """The number of lines that hold more than a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    spans = [range(token.start[0], token.end[0] + 1) for token in tokens if token.type not in NO_CODE]
    return len({line for span in spans for line in span})


def run(source, name, names=None):
    names = {"__name__": "__main__"} if names is None else names
    exec(compile(source, name, "exec"), names)
    return names


def side(diff, sign):
    """The program before (-) or after (+) the change."""
    kept = [line[1:] for line in diff.splitlines() if not line or line[0] in (" ", sign)]
    return "\n".join(kept) + "\n"


def changed(diff, sign):
    return sum(line.startswith(sign) for line in diff.splitlines())


def sum_of_losses(names):
    result = names["objective"](names["params"], names["make_batch"](0))
    return sum(result.values()) if isinstance(result, dict) else result


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.stem)
def test_the_program_of_a_framework_trains(page):
    (source,) = blocks(page.read_text(), "python")
    assert code_lines(source) <= 40
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run(source, page.name)
    rows = [[float(number) for number in re.findall(r"\d+\.\d+", line)] for line in printed.getvalue().splitlines()]
    # Seen: the last losses are at most a tenth of the first.
    assert len(rows) == 5
    assert (np.array(rows[-1]) < 0.3 * np.array(rows[0])).all()
    assert len(rows[0]) == (4 if page.stem == "nnx" else 2)
    for row in rows:  # the twins of the NNX program; printed with 8 digits
        np.testing.assert_allclose(row[:2], row[-2:] if page.stem == "nnx" else row, rtol=1e-5)


def test_there_is_a_program_per_framework():
    assert [page.stem for page in PROGRAMS] == ["equinox", "haiku", "linen", "nnx"]
    assert all(f"](loops/{page.name})" in PAGE for page in PROGRAMS)


def test_both_sides_of_the_diff_train_and_the_sum_of_the_losses_is_the_ordinary_loop():
    (diff,) = blocks(PAGE, "diff")
    assert changed(diff, "+") == 4
    assert changed(diff, "-") == 3
    before, after = (run(side(diff, sign), f"diff {sign}") for sign in "-+")
    start = jax.tree.map(jnp.zeros_like, before["params"])  # predicts 0
    first = sum_of_losses(before | {"params": start})
    assert sum_of_losses(before) < 0.3 * first
    assert sum_of_losses(after) < 0.3 * first
    assert np.abs(before["params"]["trunk"] - after["params"]["trunk"]).max() > 1e-2
    plain = run(side(diff, "+").replace("pcgrad", "sum_tasks"), "diff with sum_tasks")
    # The same operations in another order, over 300 steps of Adam.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), plain["params"], before["params"])


@pytest.fixture(scope="module")
def page():
    """The names that the page defines, after its examples have run one after another, and what they printed."""
    (diff,) = blocks(PAGE, "diff")
    names, printed, trained = run(side(diff, "+"), "diff"), io.StringIO(), []
    with contextlib.redirect_stdout(printed):
        for i, source in enumerate(blocks(PAGE, "python")):
            before = names["params"]
            run(source, f"other_loops.md, block {i}", names)
            trained += [sum_of_losses(names)] if names["params"] is not before else []
    return names, printed.getvalue(), trained


def test_the_examples_of_the_page_continue_the_training(page):
    names, printed, trained = page
    assert re.fullmatch(r"cosine -?\d\.\d\d, conflicting [01]\.00, weights \[.*\]\n", printed)
    assert len(trained) == 8  # blocks that make a step
    assert max(trained) < 0.06  # 0.86 for predictions of 0
    assert names["jacobian"]["depth"]["decoder_normal"] is None
    assert {str(path) for path in names["gradient"]} == {"trunk", "decoder_depth", "decoder_normal"}


@pytest.mark.parametrize(
    ("name", "moves"), [("averaging", False), ("accumulating", False), ("skipping", True), ("grouped", True)]
)
def test_other_chains_of_the_page_make_a_step(page, name, moves):
    names, _, _ = page
    params, tx = names["params"], names[name]
    names["tx"] = tx  # which train_step reads
    moved, _, _ = names["train_step"](params, tx.init(params), names["make_batch"](0))
    # MultiSteps moves nothing at its first step.
    assert (np.abs(moved["trunk"] - params["trunk"]).max() > 1e-3) == moves


def test_a_step_with_missing_labels_is_the_same_on_several_devices(page):
    names, _, _ = page
    params, batch = names["params"], names["batch"]
    assert 16 < np.isnan(batch["depth"]).sum() < 64  # none at the first of 4 devices
    names["tx"] = tx = optax.chain(names["sum_tasks"](names["tasks"]), optax.sgd(1.0))
    one, _ = names["train_step_with_gaps"](params, tx.init(params), batch)
    mapped = jax.shard_map(
        names["step_of_device_with_gaps"],
        mesh=names["mesh"],
        in_specs=(names["replicated"], names["replicated"], names["split"]),
        out_specs=names["replicated"],
    )
    several, _ = jax.jit(mapped)(params, tx.init(params), batch)
    assert np.abs(one["trunk"] - params["trunk"]).max() > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, several)


def test_the_three_ways_of_the_backward_passes_give_the_same_gradient():
    (diff,) = blocks(PAGE, "diff")
    names = run(side(diff, "+"), "diff")
    params, tasks, without_gram = names["params"], ("depth", "normal"), []

    def gradients_at(params):
        return names["task_gradients"](lambda params: names["objective"](params, names["make_batch"](0)), params)

    with_option = {k: v for k, v in GRADIENT_METHODS.items() if "backward" in inspect.signature(v).parameters}
    for name, method in with_option.items():
        options = {"weight_rate": 0.025} if name == "gradnorm" else {}
        found = {}
        for backward in ("together", "one_by_one", "gram"):
            try:
                transformation = method(tasks, backward=backward, **options)
            except ValueError:
                without_gram.append((name, backward))
                continue
            if name == "pcgrad":
                step = jax.jit(
                    lambda params, tx=transformation: tx.update(gradients_at(params), tx.init(params), params)
                )
                found[backward] = step(params)[0]
        for gradient in found.values():
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, found["together"])
    assert {backward for _, backward in without_gram} == {"gram"}
    text = PAGE[PAGE.index("## Memory and time") :]
    named = set(re.findall(r"`(\w+)`", text[text.index('"gram"`: batched') : text.index("do not have this choice")]))
    assert {name for name, _ in without_gram} == named


def test_both_sides_of_the_diff_of_the_readme_train():
    (diff,) = blocks(README, "diff")
    assert changed(diff, "+") == 4
    assert changed(diff, "-") == 3
    for sign in "-+":
        x = jax.random.normal(jax.random.key(0), (64, 4))
        batch = {"image": x, "semantic": x[:, 0], "depth": x[:, 1]}
        start = {"trunk": jnp.eye(4), "semantic": jnp.ones(4), "depth": jnp.ones(4)}

        def network(params, x):
            features = x @ params["trunk"]
            return features @ params["semantic"], features @ params["depth"]

        def loss(prediction, target):
            return jnp.mean((prediction - target) ** 2)

        names = {"jax": jax, "optax": optax, "network": network, "params": start}
        names |= {"semantic_loss": loss, "depth_loss": loss}
        run(side(diff, sign).replace("1e-4", "1e-2"), "README.md", names)
        params, opt_state = start, names["opt_state"]
        for _ in range(300):
            params, opt_state = names["train_step"](params, opt_state, batch)
        for task, prediction in zip(("semantic", "depth"), network(params, x), strict=True):
            assert loss(prediction, batch[task]) < 0.3 * loss(network(start, x)[0], batch[task]), (sign, task)
