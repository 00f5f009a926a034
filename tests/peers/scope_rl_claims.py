"""SCOPE-RL: its estimators of discrete actions, whose episodes are all of one length, and its intervals."""

from __future__ import annotations

from typing import Any

import torch
from claims import Claim, Claims, Evaluate, with_torch
from torch import Tensor

SMALL_WEIGHTS = "log_rho = log_rho - 6"
WHOLE_EPISODES = "done = last"
MANY_EPISODES = "v = v.repeat(100_000); samples, v, se = v, v.mean(), v.std() / len(v) ** 0.5"
EPISODES = "samples, v, se, largest, n = v, v.mean(), v.std() / len(v) ** 0.5, v.max(), len(v)"


def normalized(theirs: str, draw: str = "") -> list[Claim | str]:
    """A self-normalized estimate, also where every weight is next to nothing."""
    beside = "10⁻¹⁰ beside a mean weight that is as small"
    return [Claim(theirs, draw, by=""), Claim(theirs, f"{draw}\n{SMALL_WEIGHTS}", by="", differs=beside)]


CLAIMS: Claims = {
    "importance_weights: importance_weights(log_rho, done)": Claim("weights(log_rho)", by=""),
    "importance_sampling_value: importance_sampling_value(r, log_rho, done, discount=gamma).value": Claim(
        'estimated("TrajectoryWiseImportanceSampling", r, log_rho, gamma)', by=""
    ),
    "weighted_importance_sampling_value: "
    "weighted_importance_sampling_value(r, log_rho, done, discount=gamma).value": normalized(
        'estimated("SelfNormalizedTIS", r, log_rho, gamma)'
    ),
    "per_decision_value: per_decision_value(r, log_rho, done, discount=gamma).value": Claim(
        'estimated("PerDecisionImportanceSampling", r, log_rho, gamma)', by=""
    ),
    "weighted_per_decision_value: weighted_per_decision_value(r, log_rho, done, discount=gamma).value": normalized(
        'estimated("SelfNormalizedPDIS", r, log_rho, gamma)'
    ),
    "doubly_robust_value: doubly_robust_value(r, q, v, next_v, log_rho, last, done, discount=gamma).value": Claim(
        'estimated("DoublyRobust", r, log_rho, gamma, q, v)', draw=WHOLE_EPISODES, by=""
    ),
    "weighted_doubly_robust_value: "
    "weighted_doubly_robust_value(r, q, v, next_v, log_rho, last, done, discount=gamma).value": normalized(
        'estimated("SelfNormalizedDR", r, log_rho, gamma, q, v)', WHOLE_EPISODES
    ),
    "normal_interval: normal_interval(v, se, level=1 - 2 * alpha)": Claim(
        'bounds("t_test", samples, alpha)', draw=MANY_EPISODES, by="", turn="torch.stack(tuple(ours))"
    ),
    "empirical_bernstein_interval: "
    "empirical_bernstein_interval(v, se, count=n, spread=largest, level=1 - 2 * alpha)": Claim(
        'bounds("empirical_bernstein", samples, alpha)', draw=EPISODES, by="", turn="torch.stack(tuple(ours))"
    ),
}
READ: dict[str, str] = {}


def evaluator() -> Evaluate:
    """Two actions in each state, of which the first was logged."""
    from scope_rl import utils
    from scope_rl.ope import discrete

    def probabilities(log_rho: Tensor) -> dict[str, Any]:
        """Of the policy and of the one that chose, at each step."""
        p_e = log_rho.clamp(max=0).exp().flatten() / 2
        p_b = (-log_rho).clamp(max=0).exp().flatten() / 2
        return {"evaluation_policy_action_dist": torch.stack([p_e, 1 - p_e], 1).numpy(), "pscore": p_b.numpy()}

    def weights(log_rho: Tensor) -> Tensor:
        estimator, policies = discrete.PerDecisionImportanceSampling(), probabilities(log_rho)
        steps = {"step_per_trajectory": log_rho.shape[1], "pscore_type": "step_wise"}
        action = torch.zeros(log_rho.numel(), dtype=torch.long).numpy()
        behavior = estimator._calc_behavior_policy_pscore_discrete(pscore=policies.pop("pscore"), **steps)
        return torch.tensor(
            estimator._calc_evaluation_policy_pscore_discrete(action=action, **policies, **steps) / behavior
        )

    def estimated(
        kind: str, r: Tensor, log_rho: Tensor, gamma: float, q: Tensor | None = None, v: Tensor | None = None
    ) -> Tensor:
        given = {"step_per_trajectory": r.shape[1], "reward": r.flatten().numpy(), "gamma": gamma}
        given |= {"action": torch.zeros(r.numel(), dtype=torch.long).numpy(), **probabilities(log_rho)}
        if q is not None and v is not None:
            p_e = log_rho.clamp(max=0).exp() / 2
            other = (v - p_e * q) / (1 - p_e)  # so that the mean over both actions is v
            given["state_action_value_prediction"] = torch.stack([q.flatten(), other.flatten()], 1).numpy()
        return torch.tensor(float(getattr(discrete, kind)().estimate_policy_value(**given)))

    def bounds(kind: str, samples: Tensor, alpha: float) -> Tensor:
        found = getattr(utils, f"estimate_confidence_interval_by_{kind}")(samples.numpy(), alpha=alpha)
        return torch.tensor([value for name, value in found.items() if name.endswith(("(lower)", "(upper)"))])

    return with_torch(locals())
