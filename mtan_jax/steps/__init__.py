"""Training, evaluation and prediction steps: pure functions of arrays that know a device axis but no configuration."""

from mtan_jax.steps.eval_step import make_eval_step
from mtan_jax.steps.initial_state import Rows, create_state, state_from_variables
from mtan_jax.steps.predict_step import make_predict_step, stage_names
from mtan_jax.steps.train_step import make_train_step

__all__ = [
    "Rows",
    "create_state",
    "make_eval_step",
    "make_predict_step",
    "make_train_step",
    "stage_names",
    "state_from_variables",
]
