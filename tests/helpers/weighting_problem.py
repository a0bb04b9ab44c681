"""A balancer fed with given losses, and a small problem to train by any weighting method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtan_jax.weighting import TaskGradients


@functools.cache
def _jitted_step(tx, tasks):
    def step(state, losses, present):
        gradients = TaskGradients(
            tasks, losses, present, jnp.ones(len(tasks)), lambda cotangent: cotangent, indicators=1 / (1 + losses)
        )
        gradients, state = tx.update(gradients, state)
        return gradients.weights, state

    return jax.jit(step)


def follow(tx, tasks, losses, present=None, state=None):
    """The factors of a balancer at each step, and its last state; losses and present are [steps, t]."""
    losses = np.asarray(losses, np.float32)
    present = np.ones(losses.shape, bool) if present is None else np.asarray(present)
    state = tx.init(None) if state is None else state
    factors = []
    for row in zip(losses, present, strict=True):
        weights, state = _jitted_step(tx, tasks)(state, *row)
        factors.append(weights)
    return np.asarray(factors), state


class Problem:
    """Three regressions on shared features; labels are missing unevenly, at some steps all of one task.

    A task's loss is the mean square error over the labelled examples of the whole batch.
    """

    tasks = ("semantic", "depth", "normal")

    def __init__(self, steps=6, batch=8, seed=0):
        rng = np.random.default_rng(seed)
        self.params = {
            "shared": rng.normal(size=(5, 4)).astype(np.float32),
            "heads": rng.normal(size=(4, 3)).astype(np.float32),
        }
        labelled = rng.random((steps, batch, 3)) < 0.6
        labelled[:, : batch // 4, 0] = False  # the first of four devices never has a label for the first task
        labelled[:, -1, :] = True
        labelled[2, :, 1] = False
        self.batches = {
            "x": rng.normal(size=(steps, batch, 5)).astype(np.float32),
            "y": rng.normal(size=(steps, batch, 3)).astype(np.float32) * np.array([1.0, 5.0, 0.2], np.float32),
            "labelled": labelled,
        }

    @staticmethod
    def sums(params, batch):
        """Sum of the squared errors and count of the labels, each [t]."""
        error = jnp.tanh(batch["x"] @ params["shared"]) @ params["heads"] - batch["y"]
        return (error**2 * batch["labelled"]).sum(0), batch["labelled"].sum(0)

    def task_gradients(self, params, batch, axis_name=None):
        def task_losses(params, batch):
            total, count = self.sums(params, batch)
            if axis_name is not None:
                total, count = jax.lax.psum((total, count), axis_name)
            return total / jnp.maximum(count, 1), count > 0

        # Each row anew, so that it stays on its device.
        second = {"x": batch["x"][:, ::-1], "y": batch["y"] / 2 + 0.1, "labelled": batch["labelled"][:, ::-1]}
        losses, pullback, present = jax.vjp(lambda params: task_losses(params, batch), params, has_aux=True)
        return TaskGradients(
            self.tasks,
            losses,
            present,
            jnp.ones_like(losses),
            lambda cotangent: pullback(cotangent)[0],
            lambda params: task_losses(params, batch)[0],
            axis_name,
            second_losses_at=lambda params: task_losses(params, second)[0],
            indicators=1 / (1 + losses),
        )

    def train_alone(self, tx, start=None, first=0):
        """Parameters and state after each step of `tx` on one device, from a start before the step `first`."""

        @jax.jit
        def step(params, state, batch):
            updates, state = tx.update(self.task_gradients(params, batch), state, params)
            return jax.tree.map(jnp.add, params, updates), state

        params, state = (self.params, tx.init(self.params)) if start is None else start
        history = []
        for i in range(first, len(self.batches["x"])):
            params, state = step(params, state, {key: value[i] for key, value in self.batches.items()})
            history.append(jax.device_get((params, state)))
        return history

    def train(self, tx, devices):
        """Parameters and optimiser state after each step of `tx`, by pmap over so many devices."""

        def step(params, opt_state, batch):
            gradients = self.task_gradients(params, batch, "devices")
            updates, opt_state = tx.update(gradients, opt_state, params)
            return jax.tree.map(jnp.add, params, updates), opt_state

        step = jax.pmap(step, "devices", in_axes=(None, None, 0), out_axes=None, devices=jax.devices()[:devices])
        # On the host between the steps: where the step leaves them is not where they start, and it would compile twice.
        params, opt_state = jax.device_get((self.params, tx.init(self.params)))
        history = []
        for i in range(len(self.batches["x"])):
            batch = {key: value[i].reshape(devices, -1, *value.shape[2:]) for key, value in self.batches.items()}
            params, opt_state = jax.device_get(step(params, opt_state, batch))
            history.append((params, opt_state))
        return history


def regression(params, x, y):
    """The mean square error of each task; a small network without missing labels."""
    return ((jnp.tanh(x @ params["shared"]) @ params["heads"] - y) ** 2).mean(0)


def regression_gradients(tasks, params, x, y, second_x, second_y):
    """Task gradients of `regression` with a second batch."""
    losses, pullback = jax.vjp(lambda params: regression(params, x, y), params)
    ones = jnp.ones_like(losses)
    return TaskGradients(
        tasks,
        losses,
        ones > 0,
        ones,
        lambda cotangent: pullback(cotangent)[0],
        lambda params: regression(params, x, y),
        second_losses_at=lambda params: regression(params, second_x, second_y),
    )
