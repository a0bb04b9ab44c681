"""Train, eval and predict step: pure functions that know an axis name and no configuration."""

from mtan_jax.steps.eval_step import make_eval_step
from mtan_jax.steps.initial_state import Rows, create_state, state_before
from mtan_jax.steps.predict_step import make_predict_step, stage_names
from mtan_jax.steps.train_step import make_train_step

__all__ = [
    "Rows",
    "create_state",
    "make_eval_step",
    "make_predict_step",
    "make_train_step",
    "stage_names",
    "state_before",
]
