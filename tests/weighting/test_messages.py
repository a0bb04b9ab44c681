"""What `task_gradients`, and the methods that need something from it, say when they are misused."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from mtan_jax.weighting import (
    METHODS,
    around,
    auto_lambda,
    cagrad,
    dtp,
    dwa,
    equal,
    excess_mtl,
    famo,
    forum,
    from_jacobian,
    measure,
    modo,
    moml,
    parameter_groups,
    pcgrad,
    stch,
    sum_tasks,
    task_gradients,
    telemetry,
)

TASKS = ("depth", "normal")
PARAMS = {"trunk": jnp.ones((2, 3)), "decoder_depth": jnp.ones(3), "decoder_normal": jnp.ones(3)}


def losses_of(params):
    features = jnp.tanh(params["trunk"]).sum(0)
    return {task: (features @ params[f"decoder_{task}"] - 1) ** 2 for task in TASKS}


def returning(value):
    return lambda: task_gradients(lambda params: value, PARAMS)


def updating(tx, updates=None, params=PARAMS, **options):
    """Misuse that shows when the chain is updated."""

    def run():
        given = task_gradients(losses_of, PARAMS, **options) if updates is None else updates()
        return tx().update(given, tx().init(PARAMS), params)

    return run


def chain(**options):
    return optax.chain(pcgrad(TASKS, **options), optax.sgd(0.1))


def plain():
    return optax.chain(sum_tasks(TASKS), optax.sgd(0.1))


def group(**groups):
    return lambda: parameter_groups(TASKS, groups=groups, label=lambda path: path[0].partition("_")[0])


TYPE_ERRORS = {
    "gradient": (
        updating(chain, lambda: jax.grad(lambda params: sum(losses_of(params).values()))(PARAMS)),
        r"pcgrad got dict instead of TaskGradients\. Pass the result of task_gradients to the update of the chain",
    ),
    "pair": (
        updating(chain, lambda: task_gradients(lambda params: (losses_of(params), 0), PARAMS, has_aux=True)),
        r"pcgrad got tuple instead of TaskGradients.*with has_aux=True, the first of the pair",
    ),
    "no_pair": (
        lambda: task_gradients(losses_of, PARAMS, has_aux=True),
        r"has_aux=True: losses_of returned dict; expected a pair.*leave out has_aux",
    ),
    "sum": (returning(jnp.ones(())), r"the losses are float32\[\]; expected a dictionary with one scalar per task"),
    "array": (returning(jnp.ones(2)), r"the losses are float32\[2\]; expected a dictionary"),
    "nothing": (returning({}), "the losses are an empty dictionary; expected"),
    "unreduced": (returning({"depth": jnp.ones(5)}), r"the loss of 'depth' is float32\[5\]; expected a scalar"),
    "integer": (returning({"depth": jnp.ones((), int)}), r"is int32\[\]; expected a scalar of floating point type"),
    "losses": (
        lambda: task_gradients(losses_of(PARAMS), PARAMS),
        r"losses_of is dict; expected a function from the parameters to the losses",
    ),
    "function_in_params": (
        lambda: task_gradients(losses_of, {**PARAMS, "activation": jnp.tanh}),
        r"the parameter 'activation' is \w+, not an array; split",
    ),
    "steps_in_params": (
        lambda: task_gradients(losses_of, {**PARAMS, "steps": jnp.zeros((), int)}),
        r"the parameter 'steps' has type int32; differentiate with respect to floating point",
    ),
    "no_method": (updating(lambda: optax.adam(0.1)), r"TaskGradients are not a gradient.*Pass them to the update of a"),
    "returned": (
        lambda: jax.jit(lambda params: task_gradients(losses_of, params))(PARAMS),
        r"not a pytree: they exist within one step.*A compiled function can return their losses, not them",
    ),
    "other_params": (
        updating(chain, params={"trunk": PARAMS["trunk"]}),
        r"does not have the structure of the parameters that update received\. Pass those that the losses were",
    ),
    "other_state": (
        lambda: chain().update(task_gradients(losses_of, PARAMS), optax.adam(0.1).init(PARAMS), PARAMS),
        r"pcgrad got the state ScaleByAdamState, which is not its own; pass the state that init of the same chain made",
    ),
    "present_array": (
        lambda: task_gradients(losses_of, PARAMS, present=jnp.ones(2, bool)),
        r"present is \w+; expected a dictionary with one value per task, \['depth', 'normal'\]",
    ),
    "made_wrapper": (
        lambda: around(TASKS, chain(), wrap=optax.MultiSteps(chain(), 2)),
        r"around wrap is MultiSteps; expected a function that makes the wrapper, for example lambda inner",
    ),
    "label_dict": (
        lambda: parameter_groups(TASKS, groups={"trunk": pcgrad}, label={"trunk": "trunk"}),
        r"label is dict; expected a function from the path of a parameter.*such as lambda path: path\[0\]",
    ),
    "made_group": (group(trunk=pcgrad(TASKS)), r"group 'trunk' is \w+; expected a function.*pcgrad in place of"),
}
VALUE_ERRORS = {
    "axis_under_jit": (
        lambda: jax.jit(lambda params: task_gradients(losses_of, params, axis_name="devices").losses)(PARAMS),
        r"no axis axis_name='devices': it exists inside jax\.pmap and jax\.shard_map only\. Under jax\.jit, leave out",
    ),
    "axis_of_jacobian": (
        lambda: from_jacobian(losses_of(PARAMS), jax.jacrev(losses_of)(PARAMS), axis_name="devices"),
        r"no axis axis_name='devices'",
    ),
    "present_rows": (
        lambda: task_gradients(losses_of, PARAMS, present=dict.fromkeys(TASKS, jnp.ones(5, bool))),
        r"present of 'depth' is bool\[5\]; expected one value for the whole batch",
    ),
    "indicator_rows": (
        lambda: task_gradients(losses_of, PARAMS, indicators=dict.fromkeys(TASKS, jnp.ones(5))),
        r"indicators of 'depth' is float32\[5\]; expected one value for the whole batch",
    ),
    "no_indicators": (
        updating(lambda: optax.chain(dtp(TASKS), sum_tasks(TASKS))),
        r"indicators is None; pass indicators to task_gradients",
    ),
    **{
        f"no_second_batch_for_{name}": (
            updating(make),
            rf"{name} learns from a second batch, but .*; pass second_losses_of to task_gradients\. Batches for",
        )
        for name, make in {
            "auto_lambda": lambda: auto_lambda(TASKS, plain(), learning_rate=0.1),
            "forum": lambda: forum(TASKS, steps_per_epoch=1),
            "modo": lambda: modo(TASKS, plain()),
            "moml": lambda: moml(TASKS, plain()),
        }.items()
    },
    "nothing_selected": (
        updating(lambda: chain(shared=lambda path: path[0] == "encoder")),
        r"<lambda> selects none of the parameters \[decoder_depth, decoder_normal, trunk\]",
    ),
    "all_selected": (
        updating(lambda: chain(shared="all_but_heads")),
        r"selects all parameters, but some belong to one task: \[decoder_depth, decoder_normal\]\. Leave out shared",
    ),
    "around_backward": (
        lambda: around(TASKS, chain(), wrap=lambda inner: inner, backward="gram"),
        r"around backward is 'gram'; expected 'together' or 'one_by_one'",
    ),
    "telemetry_backward": (
        lambda: telemetry(TASKS, plain(), backward="gram"),
        r"telemetry backward is 'gram'; expected 'together' or 'one_by_one'",
    ),
    "telemetry_shared": (lambda: telemetry(TASKS, plain(), shared="trunk"), r"telemetry shared is 'trunk'; expected"),
    "no_telemetry": (
        lambda: measure(chain().init(PARAMS)),
        r"0 states of telemetry; expected one\. Put telemetry\(tasks, chain\) around the chain",
    ),
    "wrapper_as_group": (
        group(trunk=famo, decoder=equal),
        r"group 'trunk' is a wrapper; expected a gradient method or",
    ),
    "second_batch_as_group": (
        group(trunk=functools.partial(forum, steps_per_epoch=1), decoder=equal),
        r"group 'trunk' is a method that learns from a second batch, which acts on all parameters",
    ),
    "optimizer_as_group": (
        lambda: group(trunk=equal, decoder=lambda tasks: optax.adam(0.1))().init(PARAMS),
        r"group 'decoder' is not a weighting method: .* Put an optimizer after parameter_groups",
    ),
    **{
        f"seed_of_{name}": (
            lambda name=name: METHODS[name](TASKS, seed=1.5),
            f"{name} seed is 1.5; expected an integer of at least 0",
        )
        for name in ("pcgrad", "gradvac", "graddrop", "rlw", "relobralo")
    },
    "key_as_seed": (lambda: pcgrad(TASKS, seed=jax.random.key(0)), r"(?s)pcgrad seed is Array.*; expected an integer"),
    "unused_warmup_steps": (
        lambda: excess_mtl(TASKS, warmup_steps=1000),
        "excess_mtl warmup_steps is 1000, but has no effect with variant 'authors'; leave it out",
    ),
    "unused_window": (
        lambda: dwa(TASKS, steps_per_epoch=2, window=3),
        "dwa window is 3, but has no effect with variant 'mtan'; leave it out",
    ),
    "unused_warmup_epochs": (
        lambda: stch(TASKS, preferences=[1.0, 2.0], warmup_epochs=2),
        "stch warmup_epochs is 2, but has no effect with preferences; leave it out",
    ),
    "traced_option": (
        lambda: jax.jit(lambda c: cagrad(TASKS, c=c).init(PARAMS))(0.5),
        r"cagrad c is .*; expected a finite number of at least 0",
    ),
    "chain_as_tasks": (lambda: pcgrad(optax.sgd(0.1)), r"expected a sequence of at least one name, without repeats"),
}


@pytest.mark.parametrize("case", TYPE_ERRORS)
def test_type_errors(case):
    run, message = TYPE_ERRORS[case]
    with pytest.raises(TypeError, match=message):
        run()


@pytest.mark.parametrize("case", VALUE_ERRORS)
def test_value_errors(case):
    run, message = VALUE_ERRORS[case]
    with pytest.raises(ValueError, match=message):
        run()
