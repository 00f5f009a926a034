"""The same updates jitted by JAX, in flax and optax, and the same functions in rlax. Needs these packages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # read when JAX finds a card: not all memory is its own

import flax.linen as linen
import jax
import jax.numpy as jnp
import optax
import torch
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.networks import Networks, fixed_batch
from benchmarks.timing import Run, Variant, cotangents

Tree = Any
Array = jax.Array


def compute_on(device: torch.device) -> None:
    """From now on; ImportError where JAX has no such device."""
    kind = {"cuda": "gpu"}.get(device.type, device.type)
    try:
        jax.config.update("jax_default_device", jax.devices(kind)[0])
    except RuntimeError as error:
        raise ImportError(f"JAX has no {kind} here") from error


def update(name: str, device: torch.device, tolerance: float) -> Variant:
    """One jitted step, which may overwrite the state of the last one."""
    compute_on(device)
    state, step = {"IQL": _iql, "TD3+BC": _td3_bc}[name](networks.HIDDEN, networks.SEED)
    return Variant(_stepping(step, state, _batch(networks.SEED), device), tolerance=tolerance, calls=networks.CALLS)


def many(name: str, hidden: int, runs: int, device: torch.device, tolerance: float) -> Variant:
    """The jitted step of several runs, mapped over their states and batches; it gives the means over the runs."""
    compute_on(device)
    seeds = range(networks.SEED, networks.SEED + runs)
    states, steps = zip(*({"IQL": _iql, "TD3+BC": _td3_bc}[name](hidden, seed) for seed in seeds), strict=True)
    mapped = jax.vmap(steps[0])

    def step(states: Tree, batches: tuple[Array, ...]) -> tuple[Tree, dict[str, Array]]:
        new, metrics = mapped(states, batches)
        return new, {name: x.mean() for name, x in metrics.items()}

    state, batch = (jax.tree.map(lambda *x: jnp.stack(x), *trees) for trees in (states, [*map(_batch, seeds)]))
    return Variant(_stepping(step, state, batch, device), tolerance=tolerance, calls=networks.CALLS)


def _iql(hidden: int, seed: int) -> tuple[Tree, Callable[..., Any]]:
    """Value, policy and critics, each with an optimizer, then the slow critics."""
    nets = Networks(torch.device("cpu"), hidden=hidden, seed=seed)
    optimizer = optax.adam(networks.LR)
    critics, value, policy = Critics(hidden), MLP(1, hidden), MLP(networks.ACTIONS, hidden)
    parameters = {
        "value": _parameters(nets.value),
        "policy": {"mean": _parameters(nets.policy), "log_std": jnp.zeros(networks.ACTIONS)},
        "critics": _twins(nets),
    }
    state = {"parameters": parameters, "slow": _twins(nets)}
    state["optimizers"] = {name: optimizer.init(tree) for name, tree in parameters.items()}

    def step(state: Tree, batch: tuple[Array, ...]) -> tuple[Tree, dict[str, Array]]:
        observation, action, reward, next_observation, terminated = batch
        old = state["parameters"]
        q = critics.apply(state["slow"], observation, action).min(0)
        advantage = q - value.apply(old["value"], observation)[:, 0]
        weight = jnp.minimum(jnp.exp(advantage / networks.TEMPERATURE), networks.MAX_WEIGHT)
        next_value = value.apply(old["value"], next_observation)[:, 0]
        target = reward + networks.DISCOUNT * (1 - terminated) * next_value

        def value_loss(tree: Tree) -> Array:
            u = q - value.apply(tree, observation)[:, 0]
            return (jnp.where(u > 0, networks.EXPECTILE, 1 - networks.EXPECTILE) * u**2).mean()

        def critic_loss(tree: Tree) -> Array:
            return ((critics.apply(tree, observation, action) - target) ** 2).mean()

        def policy_loss(tree: Tree) -> Array:
            mean, log_std = (
                jnp.tanh(policy.apply(tree["mean"], observation)),
                jnp.clip(tree["log_std"], *networks.LOG_STD),
            )
            log_prob = jax.scipy.stats.norm.logpdf(action, mean, jnp.exp(log_std)).sum(-1)
            return -(weight * log_prob).mean()

        losses = {"value": value_loss, "critics": critic_loss, "policy": policy_loss}
        new, optimizers, metrics = _descend(optimizer, losses, old, state["optimizers"])
        slow = optax.incremental_update(new["critics"], state["slow"], networks.POLYAK)
        return {"parameters": new, "slow": slow, "optimizers": optimizers}, metrics

    return state, step


def _td3_bc(hidden: int, seed: int) -> tuple[Tree, Callable[..., Any]]:
    """Critics, then the policy, then both slow copies."""
    nets = Networks(torch.device("cpu"), hidden=hidden, seed=seed)
    optimizer = optax.adam(networks.LR)
    critics, policy = Critics(hidden), MLP(networks.ACTIONS, hidden)
    parameters = {"critics": _twins(nets), "policy": _parameters(nets.policy)}
    state = {"parameters": parameters, "slow": {"critics": _twins(nets), "policy": _parameters(nets.policy)}}
    state["optimizers"] = {name: optimizer.init(tree) for name, tree in parameters.items()}
    state["key"] = jax.random.key(seed)

    def step(state: Tree, batch: tuple[Array, ...]) -> tuple[Tree, dict[str, Array]]:
        observation, action, reward, next_observation, terminated = batch
        old, slow, optimizers = state["parameters"], state["slow"], state["optimizers"]
        key, used = jax.random.split(state["key"])
        noise = jnp.clip(
            networks.NOISE * jax.random.normal(used, action.shape), -networks.NOISE_CLIP, networks.NOISE_CLIP
        )
        next_action = jnp.clip(jnp.tanh(policy.apply(slow["policy"], next_observation)) + noise, -1, 1)
        next_q = critics.apply(slow["critics"], next_observation, next_action).min(0)
        target = reward + networks.DISCOUNT * (1 - terminated) * next_q

        def critic_loss(tree: Tree) -> Array:
            return ((critics.apply(tree, observation, action) - target) ** 2).mean()

        new_critics, critic_optimizer, critic_metric = _descend(
            optimizer, {"critics": critic_loss}, {"critics": old["critics"]}, {"critics": optimizers["critics"]}
        )

        def policy_loss(tree: Tree) -> Array:
            policy_action = jnp.tanh(policy.apply(tree, observation))
            q = critics.apply(new_critics["critics"], observation, policy_action, method=Critics.first)
            scale = networks.Q_WEIGHT / jax.lax.stop_gradient(jnp.abs(q).mean())
            return -scale * q.mean() + ((policy_action - action) ** 2).mean()

        new_policy, policy_optimizer, policy_metric = _descend(
            optimizer, {"policy": policy_loss}, {"policy": old["policy"]}, {"policy": optimizers["policy"]}
        )
        new = new_critics | new_policy
        slow = optax.incremental_update(new, slow, networks.POLYAK)
        optimizers = critic_optimizer | policy_optimizer
        new_state = {"parameters": new, "slow": slow, "optimizers": optimizers, "key": key}
        return new_state, critic_metric | policy_metric

    return state, step


class MLP(linen.Module):
    """Two hidden layers."""

    outputs: int
    hidden: int

    @linen.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(2):
            x = linen.relu(linen.Dense(self.hidden)(x))
        return linen.Dense(self.outputs)(x)


class Critics(linen.Module):
    """Twin Q(s, a)."""

    hidden: int

    def setup(self) -> None:
        self.networks = [MLP(1, self.hidden), MLP(1, self.hidden)]

    def __call__(self, observation: Array, action: Array) -> Array:
        pair = jnp.concatenate([observation, action], -1)
        return jnp.stack([network(pair)[:, 0] for network in self.networks])

    def first(self, observation: Array, action: Array) -> Array:
        return self.networks[0](jnp.concatenate([observation, action], -1))[:, 0]


def _descend(
    optimizer: optax.GradientTransformation, losses: Mapping[str, Callable[[Tree], Array]], old: Tree, states: Tree
) -> tuple[Tree, Tree, dict[str, Array]]:
    """One step for each network on its own loss."""
    new, new_states, metrics = {}, {}, {}
    for name, loss in losses.items():
        metrics[name], gradient = jax.value_and_grad(loss)(old[name])
        updates, new_states[name] = optimizer.update(gradient, states[name])
        new[name] = optax.apply_updates(old[name], updates)
    return new, new_states, metrics


def _stepping(step: Callable[..., Any], state: Tree, batch: tuple[Array, ...], device: torch.device) -> Run:
    """Calls the jitted step on its own last state, which it may overwrite; on a card nothing waits for a step."""
    precision = {"highest": "float32", "high": "tensorfloat32"}[torch.get_float32_matmul_precision()]

    def rounded(state: Tree, batch: tuple[Array, ...]) -> tuple[Tree, dict[str, Array]]:
        with jax.default_matmul_precision(precision):  # as PyTorch has it, read when this is traced
            return step(state, batch)

    jitted = jax.jit(rounded, donate_argnums=0)

    def run() -> dict[str, Array]:
        nonlocal state
        state, metrics = jitted(state, batch)
        if device.type != "cuda":
            jax.block_until_ready((state, metrics))
        return metrics

    return run


def _batch(seed: int) -> tuple[Array, ...]:
    return tuple(array(x) for x in fixed_batch(torch.device("cpu"), seed))


def array(tensor: Tensor) -> Array:
    """A copy in JAX."""
    return jnp.array(tensor.detach().numpy())


def _parameters(network: nn.Module) -> Tree:
    """The weights of one of our networks."""
    return {"params": _layers(network)}


def _twins(nets: Networks) -> Tree:
    return {"params": {f"networks_{i}": _layers(network) for i, network in enumerate(nets.critics.networks)}}


def _layers(network: nn.Module) -> Tree:
    return {
        f"Dense_{i}": {"kernel": array(layer.weight.T), "bias": array(layer.bias)}
        for i, layer in enumerate(network.layers)
    }


def function_run(name: str, arguments: Mapping[str, Any], mode: str) -> Run:
    """The rlax function of the same arguments, compiled for their shapes, with the same gradients, on the CPU."""
    compute_on(torch.device("cpu"))
    knobs = {key: value for key, value in arguments.items() if not isinstance(value, Tensor)}
    moved = {key: key for key, value in arguments.items() if isinstance(value, Tensor) and value.requires_grad}
    arrays = {key: array(value) for key, value in arguments.items() if isinstance(value, Tensor)}
    fixed = {key: value for key, value in arrays.items() if key not in moved}
    function = partial(_rlax()[name], **knobs)
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


def _rlax() -> dict[str, Callable[..., Array]]:
    """Its functions with our arguments; their discount ends a bootstrap, and a λ of zero cuts."""
    import rlax  # the updates do without

    def lambda_return(
        reward: Array, next_value: Array, terminated: Array, done: Array, discount: float, lambda_: float
    ) -> Array:
        discounts, mix = jnp.where(terminated, 0.0, discount), jnp.where(done | terminated, 0.0, lambda_)
        return jax.vmap(rlax.lambda_returns)(reward, discounts, next_value, mix)

    def n_step_return(
        reward: Array, next_value: Array, terminated: Array, done: Array, n: int, discount: float
    ) -> Array:
        discounts, mix = jnp.where(terminated, 0.0, discount), jnp.where(done | terminated, 0.0, 1.0)
        over_rows = jax.vmap(rlax.n_step_bootstrapped_returns, in_axes=(0, 0, 0, None, 0))
        return over_rows(reward, discounts, next_value, n, mix)

    return {
        "squared_loss": lambda prediction, target: 2 * rlax.l2_loss(prediction, target).mean(),
        "huber_loss": lambda prediction, target, delta: rlax.huber_loss(target - prediction, delta).mean(),
        "expectile_loss": lambda prediction, target, expectile: rlax.expectile_loss(
            prediction, target, expectile
        ).mean(),
        "discounted_return": lambda reward, done, discount: jax.vmap(rlax.discounted_returns)(
            reward, jnp.where(done, 0.0, discount), jnp.zeros_like(reward)
        ),
        "n_step_return": n_step_return,
        "lambda_return": lambda_return,
    }
