"""Open Bandit Pipeline: its estimators, for decisions one at a time and for slates, whose positions are the steps."""

from __future__ import annotations

from typing import Any

import torch
from claims import Claim, Claims, Evaluate, with_torch
from torch import Tensor

PROPENSITY = "p_b = p_b / 1.1"  # at most one
CLAIMS: Claims = {
    "ips_value: ips_value(r, p_e, p_b, max_weight=lam).value": Claim(
        "decided(ope.InverseProbabilityWeighting(lambda_=lam), r, p_e, p_b)", draw=PROPENSITY, by=""
    ),
    "ips_value: 3 * ips_value(r, p_e, p_b).value": Claim(
        "independent(r.view(-1, 3), p_e.view(-1, 3), p_b.view(-1, 3))", draw=PROPENSITY, by=""
    ),
    "self_normalized_ips_value: self_normalized_ips_value(r, p_e, p_b).value": Claim(
        "decided(ope.SelfNormalizedInverseProbabilityWeighting(), r, p_e, p_b)", draw=PROPENSITY, by=""
    ),
    "bandit_doubly_robust_value: bandit_doubly_robust_value(r, q, v, p_e, p_b, max_weight=lam).value": Claim(
        "decided(ope.DoublyRobust(lambda_=lam), r, p_e, p_b, q, v)", draw=PROPENSITY, by=""
    ),
    "bandit_doubly_robust_value: "
    "bandit_doubly_robust_value(r, q, v, torch.where(p_e > lam * p_b, 0.0, p_e), p_b).value": Claim(
        "decided(ope.SwitchDoublyRobust(lambda_=lam), r, p_e, p_b, q, v)", draw=PROPENSITY, by=""
    ),
    "doubly_robust_value: doubly_robust_value(r, q, v, next_v, log_rho, last, done, discount=1.0).value": Claim(
        "cascade(r, log_rho, q, v)", draw="done = last; next_v = next_v * ~last", by=""
    ),
    "importance_sampling_value: importance_sampling_value(r, log_rho, done, discount=1.0).value": Claim(
        "whole(r, log_rho)", by=""
    ),
    "per_decision_value: per_decision_value(r, log_rho, done, discount=1.0).value": Claim(
        "slates(ope.SlateRewardInteractionIPS, r, log_rho)", by=""
    ),
    "weighted_per_decision_value: weighted_per_decision_value(r, log_rho, done, discount=1.0).value": Claim(
        "slates(ope.SelfNormalizedSlateRewardInteractionIPS, r, log_rho)", by=""
    ),
}
READ: dict[str, str] = {}


def evaluator() -> Evaluate:
    """Two actions in each context, of which the first was logged."""
    from obp import ope

    def decided(
        estimator: Any, r: Tensor, p_e: Tensor, p_b: Tensor, q: Tensor | float = 0.0, v: Tensor | float = 0.0
    ) -> Tensor:
        other = (v - p_e * q) / (1 - p_e)  # so that the mean over both actions is v
        policy, model = (torch.stack(each, 1)[..., None].numpy() for each in ((p_e, 1 - p_e), (p_e * 0 + q, other)))
        position = torch.zeros(len(r), dtype=torch.long).numpy()
        given = {"reward": r.numpy(), "pscore": p_b.numpy(), "action": position, "position": position}
        if model.any():
            given["estimated_rewards_by_reg_model"] = model
        return torch.tensor(estimator.estimate_policy_value(action_dist=policy, **given))

    def places(r: Tensor) -> dict[str, Any]:
        slate, position = torch.meshgrid(*map(torch.arange, r.shape), indexing="ij")
        return {
            "reward": r.flatten().numpy(),
            "slate_id": slate.flatten().numpy(),
            "position": position.flatten().numpy(),
        }

    def probabilities(log_rho: Tensor) -> tuple[Tensor, Tensor]:
        """Of the policy and of the one that chose, at each step."""
        return log_rho.clamp(max=0).exp() / 2, (-log_rho).clamp(max=0).exp() / 2

    def independent(r: Tensor, p_e: Tensor, p_b: Tensor) -> Tensor:
        scores = {"pscore_item_position": p_b, "evaluation_policy_pscore_item_position": p_e}
        scores = {name: x.flatten().numpy() for name, x in scores.items()}
        return torch.tensor(ope.SlateIndependentIPS(len_list=3).estimate_policy_value(**places(r), **scores))

    def whole(r: Tensor, log_rho: Tensor) -> Tensor:
        p_e, p_b = (p.prod(1, keepdim=True).expand(r.shape).flatten().numpy() for p in probabilities(log_rho))
        estimator = ope.SlateStandardIPS(len_list=r.shape[1])
        found = estimator.estimate_policy_value(**places(r), pscore=p_b, evaluation_policy_pscore=p_e)
        return torch.tensor(found)

    def slates(kind: Any, r: Tensor, log_rho: Tensor, **given: Any) -> Tensor:
        p_e, p_b = (p.cumprod(1).flatten().numpy() for p in probabilities(log_rho))
        scores = {"pscore_cascade": p_b, "evaluation_policy_pscore_cascade": p_e}
        return torch.tensor(kind(len_list=r.shape[1]).estimate_policy_value(**places(r), **scores, **given))

    def cascade(r: Tensor, log_rho: Tensor, q: Tensor, v: Tensor) -> Tensor:
        p_e, _ = probabilities(log_rho)
        policy, model = (torch.stack(each, -1).flatten() for each in ((p_e, 1 - p_e), (q, (v - p_e * q) / (1 - p_e))))
        given = {"q_hat": model.numpy(), "evaluation_policy_action_dist": policy.numpy()}
        given["action"] = torch.zeros(r.numel(), dtype=torch.long).numpy()
        return slates(lambda len_list: ope.SlateCascadeDoublyRobust(len_list, n_unique_action=2), r, log_rho, **given)

    return with_torch(locals())
