"""Off-policy evaluation: what a saved policy would earn, by a model, by ratios and by both, and which to trust.

The policy is one that a recipe saved with `--out`. On every other episode Q is fitted to it (fitted Q evaluation: Le,
Voloshin and Yue, arXiv:1903.08738); the rest makes the estimates. A behavior policy, fitted to all episodes as the
policy was, stands for propensities (Hanna, Niekum and Stone, arXiv:1806.01347). Continuous actions have no ratios here.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from common import arguments, minimize
from embedded import load, open_dataset
from encoding import read_part
from networks import mlp
from rich.progress import track
from saved import SavedPolicy, load_policy
from task import Remembering
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import Adam
from truth import true_value

import offline_losses as ol

RATIOS = "importance_sampling", "weighted_importance_sampling", "per_decision", "weighted_per_decision"
BOTH = "doubly_robust", "weighted_doubly_robust"


def main(argv: Sequence[str] | None = None) -> dict[str, object]:
    parser = arguments(__doc__)
    parser.add_argument("--policy", type=Path, required=True, help="the folder that a recipe saved its policy in")
    parser.add_argument("--greedy", action="store_true", help="judge its most probable actions, not those it draws")
    parser.add_argument("--truth", action="store_true", help="add the true value, where the environment tells")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    saved, rows = loaded(options.policy, options.dataset)
    knobs = {"discount": options.discount}
    encoding, policy, count = saved.encoding, saved.policy, saved.encoding.action_size
    drawn = hasattr(policy, "probability") and not options.greedy
    if isinstance(policy, Remembering):
        raise SystemExit("A policy that looks back on its episodes has no value of a single state.")

    def chosen(observation: Tensor) -> Tensor:
        """Probabilities `[B, actions]`, or the continuous action `[B, A]`."""
        action = policy.probability(observation) if drawn else policy.act(observation)
        return one_hot(action, count).float() if encoding.discrete and not drawn else action

    def value(network: nn.Module, observation: Tensor, chosen: Tensor) -> Tensor:
        """Q of what was chosen."""
        if encoding.discrete:
            return (chosen * network(observation)).sum(-1)
        return network(torch.cat([observation, chosen], -1)).squeeze(-1)

    state, following = (encoding.observe(step["observation"]) for step in (rows, rows["next"]))
    action = encoding.from_environment(rows["action"])
    action = one_hot(action, count).float() if encoding.discrete else action
    reward, terminated, done = (rows["next", key] for key in ("reward", "terminated", "done"))
    start = torch.cat([done.new_ones(1), done[:-1]])
    fit, held = ((start.cumsum(0) % 2 == odd).nonzero().squeeze(1) for odd in (0, 1))

    inputs, width, batch = state.shape[-1], options.hidden, (options.batch_size,)
    critic = mlp(inputs, count, width) if encoding.discrete else mlp(inputs + count, 1, width)
    slow, behavior = deepcopy(critic).requires_grad_(False), mlp(inputs, count, width)
    optimizer = Adam([*critic.parameters(), *behavior.parameters()], options.lr, fused=True)
    for _ in track(range(options.steps), "fitting"):
        i, j = fit[torch.randint(len(fit), batch)], torch.randint(len(rows), batch)
        next_value = value(slow, following[i], chosen(following[i]))
        target = ol.bellman_target(reward[i] * saved.scale, next_value, terminated[i], **knobs)
        loss = ol.squared_loss(value(critic, state[i], action[i]), target)
        if encoding.discrete:
            loss = loss + ol.nll_loss((action[j] * behavior(state[j]).log_softmax(-1)).sum(-1))
        minimize(optimizer, loss)
        ol.polyak_update_(slow, critic, polyak=0.02)

    with torch.no_grad():
        log = {"reward": reward[held], "done": done[held]}
        v, next_v = (value(slow, x[held], chosen(x[held])) / saved.scale for x in (state, following))
        found = {"fitted Q": ol.ValueEstimate(v[start[held]].mean(), torch.tensor(0.0), torch.tensor(0.0))}
        if encoding.discrete:
            chance, propensity, taken = chosen(state[held]), behavior(state[held]).softmax(-1), action[held]
            log["log_ratio"] = ((taken * chance).sum(-1) / (taken * propensity).sum(-1)).log()
            found["mean weight"] = ol.importance_sampling_value(**log | {"reward": log["done"].float()}, discount=1.0)
            model = {"value": v, "next_value": next_v, "terminated": terminated[held]}
            model["q_data"] = value(slow, state[held], taken) / saved.scale
            found |= {name: getattr(ol, f"{name}_value")(**log, **knobs) for name in RATIOS}
            found |= {name: getattr(ol, f"{name}_value")(**log, **model, **knobs) for name in BOTH}
    first = rows["observation"][held][start[held]][: options.probe]
    truth = true_value(saved, options.dataset, first, chosen, **knobs) if options.truth else None
    result = {name: [number.item() for number in numbers] for name, numbers in found.items()}
    words = judged(result, int(start[held].sum()))
    for name, (mean, error, size) in found.items():
        low, high = ol.normal_interval(mean, error)
        print(f"{name:29}{mean:10.4g}" + (f"  [{low:.4g}, {high:.4g}]" if size > 0 else ""))
    print(f"{'truth':29}{truth:10.4g}\n{words}" if truth is not None else words)
    return {"estimates": result, "truth": truth, "words": words}


def loaded(policy: Path, dataset: str) -> tuple[SavedPolicy, TensorDict]:
    """The policy and the data to judge it on, which must be of the same spaces."""
    try:
        saved, rows, source = load_policy(policy), load(dataset), open_dataset(dataset)
        seen = read_part(source.observation_space, rows["observation"])
    except (OSError, ImportError, ValueError) as error:
        raise SystemExit(str(error)) from error
    if (seen, source.action_space) != (saved.encoding.observation_space, saved.encoding.action_space):
        raise SystemExit(f"{dataset} has other spaces than the policy, which learned from {saved.dataset}.")
    return saved, rows


def judged(found: dict[str, list[float]], episodes: int) -> str:
    """Which of the estimates can be trusted."""
    if len(found) == 1:
        return "No ratios: nothing here contradicts the model, and nothing confirms it."
    (model, _, _), (weight, spread, _) = found["fitted Q"], found["mean weight"]
    value, error, size = found["weighted_doubly_robust"]
    agree = "agree" if abs(value - model) < 2 * error else "do not agree"
    words = f"The ratios are worth {size:.0f} of {episodes} episodes. Model and correction {agree}. Trust "
    if size < max(50, episodes / 50):
        return words + "none of these: too little of the log is what this policy does."
    if abs(weight - 1) > 2 * spread + 0.02:
        return words + "none of these: propensities are wrong, or it leaves the data, or learned from these episodes."
    return words + f"the doubly robust estimates, {'and the model' if agree == 'agree' else 'and not the model'}."


if __name__ == "__main__":
    main()
