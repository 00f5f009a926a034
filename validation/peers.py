"""The estimators of obp and scope-rl on the same numbers: `python -m validation.peers`, where both are installed.

On the Open Bandit logs, and on random episodes, which for scope-rl are of equal length.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import offline_losses as ol
from validation.decisions import CAMPAIGNS, Question, columns, estimates, fitted, impressions, questions, wheel

Row = dict[str, Any]
SHAPES = (20, 3), (500, 10), (2000, 40)  # episodes and steps
ACTIONS = 4
DISCOUNT = 0.95


def open_bandit(file: Path) -> list[Row]:
    """Our numbers and those of obp for each campaign and both policies."""
    from obp.ope import DoublyRobust, InverseProbabilityWeighting, SelfNormalizedInverseProbabilityWeighting

    theirs = {
        "ips_value": InverseProbabilityWeighting(),
        "self_normalized_ips_value": SelfNormalizedInverseProbabilityWeighting(),
        "bandit_doubly_robust_value": DoublyRobust(),
    }
    rows = []
    for campaign in CAMPAIGNS:
        for policy, question in questions(file, campaign).items():
            x = columns(question)
            for name, (ours, _, _) in estimates(x).items():
                found = theirs[name].estimate_policy_value(**_for_obp(question))
                rows.append(_row("obp", name, f"{policy} in {campaign}", ours.item(), found))
    return rows


def _for_obp(question: Question) -> dict[str, np.ndarray]:
    log, policy, _ = question
    return {
        "reward": log.click,
        "action": log.item,
        "position": log.position,
        "pscore": log.propensity,
        "action_dist": np.broadcast_to(policy, (len(log.item), *policy.shape)).copy(),
        "estimated_rewards_by_reg_model": np.repeat(fitted(question)[:, :, None], policy.shape[1], axis=2),
    }


def rebuilt(file: Path, campaign: str = "men") -> Row:
    """The sampler's own log, evaluated for the sampler as obp rebuilds it from its prior."""
    from obp.policy import BernoulliTS

    log = impressions(file, "Thompson", campaign)
    items, positions = int(log.item.max()) + 1, int(log.position.max()) + 1
    policy = BernoulliTS(items, positions, random_state=0, is_zozotown_prior=True, campaign=campaign)
    probability = policy.compute_batch_action_dist(n_sim=100_000)[0][log.item, log.position]
    found = ol.ips_value(*(torch.from_numpy(column) for column in (log.click, probability, log.propensity)))
    return {"campaign": campaign, "value": found.value.item(), "own": float(log.click.mean())}


def episodes() -> list[Row]:
    """Our numbers and those of scope-rl on random episodes of equal length."""
    from scope_rl.ope import discrete

    rng = np.random.default_rng(0)
    rows = []
    for count, steps in SHAPES:
        n = count * steps
        action, reward = rng.integers(ACTIONS, size=n), rng.normal(size=n)
        policy, behavior = rng.dirichlet(np.full(ACTIONS, 5.0), n), rng.dirichlet(np.full(ACTIONS, 5.0), n)
        q, row = rng.normal(size=(n, ACTIONS)), np.arange(n)
        shared = {"step_per_trajectory": steps, "action": action, "reward": reward, "pscore": behavior[row, action]}
        shared |= {"evaluation_policy_action_dist": policy, "gamma": DISCOUNT, "state_action_value_prediction": q}

        done = torch.from_numpy(row % steps == steps - 1)
        value = torch.from_numpy((policy * q).sum(1))
        following = torch.where(done, 0.0, value.roll(-1))
        ratio = torch.from_numpy(np.log(policy[row, action] / behavior[row, action]))
        plain = torch.from_numpy(reward), ratio, done
        model = plain[0], torch.from_numpy(q[row, action]), value, following, ratio, done, done
        ours: dict[str, tuple[Callable[..., ol.ValueEstimate], tuple[Any, ...]]] = {
            "TrajectoryWiseImportanceSampling": (ol.importance_sampling_value, plain),
            "SelfNormalizedTIS": (ol.weighted_importance_sampling_value, plain),
            "PerDecisionImportanceSampling": (ol.per_decision_value, plain),
            "SelfNormalizedPDIS": (ol.weighted_per_decision_value, plain),
            "DoublyRobust": (ol.doubly_robust_value, model),
            "SelfNormalizedDR": (ol.weighted_doubly_robust_value, model),
        }
        for name, (function, arguments) in ours.items():
            found = getattr(discrete, name)().estimate_policy_value(**shared)
            mine = function(*arguments, discount=DISCOUNT).value.item()
            rows.append(_row("scope-rl", function.__name__, f"{count} episodes of {steps}", mine, float(found)))
    return rows


def _row(peer: str, name: str, data: str, ours: float, theirs: float) -> Row:
    return {"peer": peer, "name": name, "data": data, "ours": ours, "theirs": theirs}


if __name__ == "__main__":
    out, archive = Path(__file__).parent / "results" / "peers.json", wheel(Path("results"))
    kept = {
        "versions": {peer: version(peer) for peer in ("obp", "scope-rl", "numpy", "torch")},
        "rows": open_bandit(archive) + episodes(),
        "rebuilt": rebuilt(archive),
    }
    out.write_text(json.dumps(kept, indent=1) + "\n")
    largest = max(abs(row["ours"] - row["theirs"]) for row in kept["rows"])
    print(f"wrote {out}: {len(kept['rows'])} estimates, the largest difference is {largest:.1e}")
