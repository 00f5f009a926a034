"""The same functions in rlax, jitted by JAX. Needs these packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import rlax
import torch
from torch import Tensor

from benchmarks.peers_jax import Array, array, compute_on
from benchmarks.variants import Run, cotangents


def function_run(name: str, arguments: Mapping[str, Any], mode: str) -> Run:
    """The rlax function of the same arguments, compiled for their shapes, with the same gradients, on the CPU."""
    compute_on(torch.device("cpu"))
    knobs = {key: value for key, value in arguments.items() if not isinstance(value, Tensor)}
    moved = {key: key for key, value in arguments.items() if isinstance(value, Tensor) and value.requires_grad}
    arrays = {key: array(value) for key, value in arguments.items() if isinstance(value, Tensor)}
    fixed = {key: value for key, value in arrays.items() if key not in moved}
    function = partial(RLAX[name], **knobs)
    if mode == "forward":
        forward = jax.jit(lambda given: function(**given))
        return lambda: [jax.block_until_ready(forward(arrays))]

    shape = jax.eval_shape(lambda given: function(**given), arrays).shape
    factor = cotangents([torch.empty(shape)])[0]
    factor = jnp.ones(()) if factor is None else array(factor)

    @jax.jit
    def both(given: Mapping[str, Array]) -> tuple[Array, Mapping[str, Array]]:
        result, pull = jax.vjp(lambda x: function(**x, **fixed), given)
        return result, pull(factor)[0]

    given = {key: arrays[key] for key in moved}

    def run() -> list[Array]:
        result, gradients = jax.block_until_ready(both(given))
        return [result, *(gradients[key] for key in moved)]

    return run


def _lambda_return(
    reward: Array, next_value: Array, terminated: Array, done: Array, discount: float, lambda_: float
) -> Array:
    """Their discount ends a bootstrap; a λ of zero cuts."""
    discounts, mix = jnp.where(terminated, 0.0, discount), jnp.where(done | terminated, 0.0, lambda_)
    return jax.vmap(rlax.lambda_returns)(reward, discounts, next_value, mix)


def _n_step_return(reward: Array, next_value: Array, terminated: Array, done: Array, n: int, discount: float) -> Array:
    discounts, mix = jnp.where(terminated, 0.0, discount), jnp.where(done | terminated, 0.0, 1.0)
    over_rows = jax.vmap(rlax.n_step_bootstrapped_returns, in_axes=(0, 0, 0, None, 0))
    return over_rows(reward, discounts, next_value, n, mix)


RLAX: dict[str, Callable[..., Array]] = {
    "squared_loss": lambda prediction, target: 2 * rlax.l2_loss(prediction, target).mean(),
    "huber_loss": lambda prediction, target, delta: rlax.huber_loss(target - prediction, delta).mean(),
    "expectile_loss": lambda prediction, target, expectile: rlax.expectile_loss(prediction, target, expectile).mean(),
    "discounted_return": lambda reward, done, discount: jax.vmap(rlax.discounted_returns)(
        reward, jnp.where(done, 0.0, discount), jnp.zeros_like(reward)
    ),
    "n_step_return": _n_step_return,
    "lambda_return": _lambda_return,
}
