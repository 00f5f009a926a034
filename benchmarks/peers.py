"""The same functions in PyTorch itself, TorchRL and rlax, and the same updates in TorchRL, d3rlpy and JAX.

The packages are imported only when asked for, and the updates have networks of the same shape on the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.optim import Adam

from benchmarks import networks
from benchmarks.networks import ACTIONS, BATCH, LR, MLP, OBSERVATIONS, fixed_batch
from benchmarks.timing import Maker, Variant, Variants, maker


def of_function(
    name: str, arguments: Mapping[str, Any], mode: str, device: torch.device, with_packages: bool
) -> Variants:
    """Whatever else computes this function, with the same arguments."""
    found: Variants = {}
    if name in TORCH:
        found["torch"] = maker(TORCH[name], arguments, mode)
    if name == "cql_logsumexp_penalty":
        found["cross_entropy"] = _cross_entropy(arguments, mode)
    if with_packages and name in TORCHRL:
        found["torchrl"] = maker(TORCHRL[name], arguments, mode)
    if with_packages and name in RLAX and device.type == "cpu":
        found["rlax"] = _rlax(name, arguments, mode)
    return found


def cross_entropy(q: Tensor, action: Tensor) -> Tensor:
    """At temperature 1 the discrete penalty is the cross-entropy of the data's action."""
    return F.cross_entropy(q, action)


def reward_to_go(reward: Tensor, done: Tensor, discount: float) -> Tensor:
    """TorchRL's return; time is its last but one axis."""
    from torchrl.objectives.value.functional import reward2go

    return reward2go(reward.unsqueeze(-1), done.unsqueeze(-1), discount).squeeze(-1)


def _cross_entropy(arguments: Mapping[str, Any], mode: str) -> Maker:
    """Of the same logits; the value of the data's action comes out of them, so that the results differ."""
    q = arguments["q_candidates"]
    action = torch.randint(q.shape[-1], q.shape[:-1], device=q.device)
    return maker(cross_entropy, {"q": q, "action": action}, mode, tolerance=None)


def _gaussian(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    return Normal(mean, log_std.exp(), validate_args=False).log_prob(action).sum(-1)


def _lambda_return(
    reward: Tensor, next_value: Tensor, terminated: Tensor, done: Tensor, discount: float, lambda_: float
) -> Tensor:
    from torchrl.objectives.value.functional import vec_td_lambda_return_estimate

    columns = [x.unsqueeze(-1) for x in (next_value, reward, done | terminated, terminated)]
    return vec_td_lambda_return_estimate(discount, lambda_, *columns).squeeze(-1)


def _advantage(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, done: Tensor, discount: float, lambda_: float
) -> Tensor:
    from torchrl.objectives.value.functional import vec_generalized_advantage_estimate

    columns = [x.unsqueeze(-1) for x in (value, next_value, reward, done | terminated, terminated)]
    return vec_generalized_advantage_estimate(discount, lambda_, *columns)[0].squeeze(-1)


def _rlax(name: str, arguments: Mapping[str, Any], mode: str) -> Maker:
    def make() -> Variant:
        from benchmarks.peers_jax import function_run

        return Variant(function_run(name, arguments, mode))

    return make


TORCH: dict[str, Callable[..., Tensor]] = {
    "squared_loss": lambda prediction, target: F.mse_loss(prediction, target),
    "huber_loss": lambda prediction, target, delta: F.huber_loss(prediction, target, delta=delta),
    "soft_value": lambda q, temperature: temperature * torch.logsumexp(q / temperature, -1),
    "softmax_weights": lambda q, temperature: F.softmax(q / temperature, -1),
    "softmax_entropy": lambda q, temperature: Categorical(logits=q / temperature, validate_args=False).entropy(),
    "gaussian_log_prob": _gaussian,
}
TORCHRL: dict[str, Callable[..., Tensor]] = {
    "discounted_return": reward_to_go,
    "lambda_return": _lambda_return,
    "generalized_advantage": _advantage,
}
RLAX = ("squared_loss", "huber_loss", "expectile_loss", "discounted_return", "n_step_return", "lambda_return")


TORCHRL_LOSSES = ("loss_actor", "loss_qvalue", "loss_value", "loss_cql", "loss_alpha")


def of_update(name: str, device: torch.device, tolerance: float) -> Variants:
    """Every peer that has this algorithm; the tolerance is of those that begin with the same weights."""
    found: Variants = {"torchrl": lambda: _torchrl(name, device)}
    found["d3rlpy"] = lambda: _d3rlpy(name, device, compile_graph=False)
    if device.type == "cuda":  # where alone its flag does anything
        found["d3rlpy compiled"] = lambda: _d3rlpy(name, device, compile_graph=True)
    if name != "CQL":
        found["jax"] = lambda: jitted(name, device, tolerance)
    return found


def jitted(name: str, device: torch.device, tolerance: float) -> Variant:
    """The update of JAX."""
    from benchmarks import peers_jax

    return peers_jax.update(name, device, tolerance)


def jitted_runs(name: str, hidden: int, runs: int, device: torch.device, tolerance: float) -> Variant:
    """The update of several runs in JAX."""
    from benchmarks import peers_jax

    return peers_jax.many(name, hidden, runs, device, tolerance)


def _d3rlpy(name: str, device: torch.device, compile_graph: bool) -> Variant:
    """From tensors on the device, without the conversion that its own training loop makes from arrays."""
    from d3rlpy.algos import CQLConfig, IQLConfig, TD3PlusBCConfig
    from d3rlpy.torch_utility import TorchMiniBatch

    rates = {"actor_learning_rate": LR, "critic_learning_rate": LR, "compile_graph": compile_graph}
    config = {
        "IQL": IQLConfig(**rates, expectile=networks.EXPECTILE, weight_temp=1 / networks.TEMPERATURE),
        "CQL": CQLConfig(**rates, n_action_samples=networks.PROPOSALS, conservative_weight=networks.CONSERVATIVE),
        "TD3+BC": TD3PlusBCConfig(**rates, alpha=networks.Q_WEIGHT, update_actor_interval=1),
    }[name]
    where = f"{device.type}:0"
    algorithm = config.create(device=where)
    algorithm.create_impl((OBSERVATIONS,), ACTIONS)
    observation, action, reward, next_observation, terminated = fixed_batch(device)
    column = torch.zeros(BATCH, 1, device=device)
    batch = TorchMiniBatch(
        observations=observation,
        actions=action,
        rewards=reward.unsqueeze(-1),
        next_observations=next_observation,
        next_actions=action,
        returns_to_go=column,
        terminals=terminated.float().unsqueeze(-1),
        intervals=column + 1,
        device=where,
    )
    return Variant(
        lambda: algorithm.impl.update(batch, 0), tolerance=None, note="weights of its own; losses as numbers"
    )


def _torchrl(name: str, device: torch.device) -> Variant:
    """Its loss module, one backward pass of the sum of the losses, one Adam, and its soft update."""
    from tensordict import TensorDict
    from torchrl.objectives import SoftUpdate

    loss_module = {"IQL": _torchrl_iql, "CQL": _torchrl_cql, "TD3+BC": _torchrl_td3_bc}[name]().to(device)
    loss_module.make_value_estimator(gamma=networks.DISCOUNT)
    slow = SoftUpdate(loss_module, tau=networks.POLYAK)
    optimizer = Adam([p for p in loss_module.parameters() if p.requires_grad], lr=LR)
    observation, action, reward, next_observation, terminated = fixed_batch(device)
    following = {"observation": next_observation, "reward": reward.unsqueeze(-1)}
    following |= {key: terminated.unsqueeze(-1) for key in ("done", "terminated")}
    data = {"observation": observation, "action": action, "next": following}
    batch = TensorDict(data, batch_size=[BATCH], device=device)

    def run() -> dict[str, Tensor]:
        losses = loss_module(batch)
        terms = {key: loss for key, loss in losses.items() if key in TORCHRL_LOSSES}
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        slow.step()
        return {key: loss.detach() for key, loss in terms.items()}

    return Variant(run, tolerance=None, note="weights of its own")


class _Gaussian(nn.Module):
    """Mean and deviation of an action: the deviation the same everywhere, or an output of the network."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.network = MLP(OBSERVATIONS, outputs)
        self.log_std = nn.Parameter(torch.zeros(ACTIONS)) if outputs == ACTIONS else None

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        output = self.network(observation)
        if self.log_std is not None:
            return output.tanh(), self.log_std.clamp(*networks.LOG_STD).exp().expand_as(output)
        mean, log_std = output.chunk(2, -1)
        return mean, log_std.clamp(*networks.LOG_STD).exp()


class _Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = MLP(OBSERVATIONS + ACTIONS, 1)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.network(torch.cat([observation, action], -1))


def _torchrl_iql() -> nn.Module:
    from torchrl.modules import IndependentNormal, ValueOperator
    from torchrl.objectives import IQLLoss

    return IQLLoss(
        _actor(ACTIONS, IndependentNormal),
        _q_operator(),
        ValueOperator(MLP(OBSERVATIONS, 1), in_keys=["observation"]),
        loss_function="l2",
        temperature=1 / networks.TEMPERATURE,  # it multiplies
        expectile=networks.EXPECTILE,
    )


def _torchrl_cql() -> nn.Module:
    from torchrl.modules import TanhNormal
    from torchrl.objectives import CQLLoss

    return CQLLoss(
        _actor(2 * ACTIONS, TanhNormal),
        _q_operator(),
        loss_function="l2",
        action_spec=_action_spec(),
        min_q_weight=networks.CONSERVATIVE,
        num_random=networks.PROPOSALS,
    )


def _torchrl_td3_bc() -> nn.Module:
    from tensordict.nn import TensorDictModule
    from torchrl.objectives import TD3BCLoss

    policy = nn.Sequential(MLP(OBSERVATIONS, ACTIONS), nn.Tanh())
    return TD3BCLoss(
        TensorDictModule(policy, in_keys=["observation"], out_keys=["action"]),
        _q_operator(),
        action_spec=_action_spec(),
        policy_noise=networks.NOISE,
        noise_clip=networks.NOISE_CLIP,
        alpha=networks.Q_WEIGHT,
        loss_function="l2",
    )


def _actor(outputs: int, distribution: Callable[..., Any]) -> nn.Module:
    from tensordict.nn import TensorDictModule
    from torchrl.modules import ProbabilisticActor

    module = TensorDictModule(_Gaussian(outputs), in_keys=["observation"], out_keys=["loc", "scale"])
    return ProbabilisticActor(
        module, in_keys=["loc", "scale"], distribution_class=distribution, spec=_action_spec(), return_log_prob=True
    )


def _q_operator() -> nn.Module:
    from torchrl.modules import ValueOperator

    return ValueOperator(_Critic(), in_keys=["observation", "action"])


def _action_spec() -> Any:
    from torchrl.data import Bounded

    return Bounded(-1.0, 1.0, (ACTIONS,))
