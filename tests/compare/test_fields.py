"""Fields in which configurations differ, their names and values."""

import jax.numpy as jnp
import pytest

import mtan_jax as mtan
from mtan_jax.compare import fields
from mtan_jax.compare.errors import ComparisonError
from mtan_jax.training.config_record import flatten_config


def flat(**changes):
    """The flat configuration of NYUv2 with changed fields, with "__" for dots."""
    config = mtan.load_config("nyuv2")
    for name, value in changes.items():
        *parents, last = name.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return flatten_config(config)


def names(*configs, ignored=()):
    """What is shown of each configuration, by full name."""
    return fields.differing([fields.effective(config, ignored) for config in configs], {})


def test_fields_that_do_not_change_results():
    same = {
        "seed": 3,
        "data__data_dir": "/elsewhere",
        "data__workers": 1,
        "log_every": "7 steps",
        "checkpoint__keep": 5,
        "eval__batch_size": 16,  # the metrics of the protocol "exact" are over the whole split
        "eval__single_task": (("depth/abs_error", 0.5),),
        "weighting": "telemetry",  # measures and changes nothing
        "weighting_options__dwa__temperature": 9.0,  # of a method that is not used
    }
    assert names(flat(), flat(**same)) == [{}, {}]


def test_initial_weights_change_results():
    assert names(flat(), flat(model__init_from="runs/base")) == [
        {"model.init_from": "none"},
        {"model.init_from": "runs/base"},
    ]


def test_batches_of_the_authors_protocol_change_results():
    ours, theirs = (
        {"eval__protocol": "authors", "eval__batch_size": 2},
        {"eval__protocol": "authors", "eval__batch_size": 4},
    )
    assert names(flat(**ours), flat(**theirs)) == [{"eval.batch_size": "2"}, {"eval.batch_size": "4"}]


def test_order_and_text_of_values():
    found = names(
        flat(weighting="dwa", model__arch="split", model__width=0.5, optimizer__learning_rate=1e-4, data__augment=True),
        flat(tasks=("semantic", "depth"), optimizer__learning_rate=3e-5, optimizer__warmup="5 epochs"),
    )
    assert [list(each.items()) for each in found] == [
        [
            *(
                ("model.arch", "split"),
                ("model.width", "0.5"),
                ("tasks", "semantic+depth+normal"),
                ("weighting", "dwa"),
            ),
            *(("data.augment", "true"), ("optimizer.learning_rate", "0.0001"), ("optimizer.warmup", "none")),
        ],
        [
            *(("model.arch", "mtan"), ("model.width", "1"), ("tasks", "semantic+depth"), ("weighting", "equal")),
            *(("data.augment", "false"), ("optimizer.learning_rate", "3e-05"), ("optimizer.warmup", "5 epochs")),
        ],
    ]


def test_options_of_a_method_are_compared_among_its_runs():
    hot, cold = (flat(weighting="dwa", weighting_options__dwa__temperature=t) for t in (2.0, 1.0))
    assert names(flat(), hot, cold) == [
        {"weighting": "equal"},
        {"weighting": "dwa", "weighting_options.dwa.temperature": "2"},
        {"weighting": "dwa", "weighting_options.dwa.temperature": "1"},
    ]
    assert names(flat(), hot) == [{"weighting": "equal"}, {"weighting": "dwa"}]


def test_options_in_the_chain_take_precedence():
    inline = flat(weighting=(("dwa", {"temperature": 1.0}), "pcgrad"))
    apart = flat(weighting="dwa+pcgrad", weighting_options__dwa__temperature=1.0)
    other = flat(weighting=("dwa", "pcgrad"))
    shown = names(inline, apart, other)
    assert [each["weighting_options.dwa.temperature"] for each in shown] == ["1", "1", "2"]
    assert "weighting" not in shown[0]


def test_weights_are_one_field():
    one, two = ({"semantic": 1.0, "depth": depth, "normal": 2.0} for depth in (1, 20.0))
    found = names(*(flat(weighting="static", weighting_options__static__weights=weights) for weights in (one, two)))
    assert [each["weighting_options.static.weights"] for each in found] == [
        "depth:1/normal:2/semantic:1",
        "depth:20/normal:2/semantic:1",
    ]


def test_schedules_show_their_ends():
    def schedule(last):
        return flat(
            weighting="schedule",
            weighting_options__schedule__weights={
                "semantic": lambda step: jnp.clip(1 + (last - 1) * step / 1000, min(1, last), max(1, last)),
                "depth": 1.0,
                "normal": 1.0,
            },
        )

    found = names(schedule(0.25), schedule(3), schedule(3.00001))
    texts = [each["weighting_options.schedule.weights"] for each in found]
    assert texts[0] == "depth:1/normal:1/semantic:1→0.25"
    assert texts[1] == texts[2] == "depth:1/normal:1/semantic:1→3"  # up to rounding


def test_a_schedule_of_the_losses_and_values_that_read_alike():
    def schedule(shift):
        def weights(step, losses):
            middle = jnp.where((step > 100) & (step < 1000), shift, 0.0)
            return {"semantic": 1 + middle, "depth": 1.0, "normal": losses[2] / losses[2]}

        return flat(weighting=(("schedule", {"weights": weights}), "pcgrad"))

    found = names(schedule(0.0), schedule(1.0))
    assert [each["weighting_options.schedule.weights"] for each in found] == ["1x1x1→1x1x1#1", "1x1x1→1x1x1#2"]


def test_functions_are_shown_by_name():
    def my_method(tasks):
        raise NotImplementedError

    found = names(flat(), flat(weighting=(my_method,)))
    assert found[1]["weighting"].endswith("my_method")


def test_ignored_fields():
    one, two = flat(model__width=0.5, optimizer__learning_rate=1.0), flat()
    assert names(one, two, ignored=["width"]) == [
        {"optimizer.learning_rate": "1"},
        {"optimizer.learning_rate": "0.0001"},
    ]
    assert names(one, two, ignored=["model.width", "learning_rate"]) == [{}, {}]


def test_equal_numbers_of_other_types():
    configs = [flat() | {"data.options.x": value} for value in (1, 1.0, True)]
    assert [each["data.options.x"] for each in names(*configs)] == ["1", "1", "true"]


def test_short_names():
    known = list(flat())
    found = fields.short_names(
        [
            "model.arch",
            "data.name",
            "optimizer.name",
            "batch_size",
            "eval.batch_size",
            "weighting_options.dwa.temperature",
        ],
        known,
    )
    assert list(found.values()) == [
        "arch",
        "data.name",
        "optimizer.name",
        "batch_size",
        "eval.batch_size",
        "dwa.temperature",
    ]
    assert all(fields.find(short, known) == [name] for name, short in found.items())


@pytest.mark.parametrize("text", ["arch=mtan,tasks=a+b", " arch=mtan tasks=a+b ", "config.model.arch=mtan, tasks=a+b"])
def test_pairs(text):
    assert fields.parse_pairs(text, list(flat()), "--x") == {"model.arch": "mtan", "tasks": "a+b"}


def test_a_value_with_a_space():
    assert fields.parse_pairs("duration=200 epochs", list(flat()), "--x") == {"duration": "200 epochs"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mtan", "--x=mtan: 'mtan' is no field=value pair; use one such as arch=single"),
        ("name=adam", r"--x=name=adam: name is ambiguous: data\.name, optimizer\.name"),
        ("achr=mtan", "--x=achr=mtan: achr is no field of the configurations"),
        ("", "--x is empty; use field=value pairs joined by commas, such as arch=single"),
    ],
)
def test_mistakes_in_pairs(text, message):
    with pytest.raises(ComparisonError, match=message):
        fields.parse_pairs(text, list(flat()), "--x")
