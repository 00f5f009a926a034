"""The same functions in PyTorch itself, TorchRL and rlax. The packages are imported only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Normal

from benchmarks.variants import Maker, Variant, Variants, maker


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
        from benchmarks.peers_rlax import function_run

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
