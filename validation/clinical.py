"""ICU-Sepsis: every estimator on many logs of the clinicians, against the exact survival under four other policies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import offline_losses as ol
from offline_losses import ValueEstimate

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "recipes"))

from sepsis import DEATH, SURVIVAL, Floats, IcuSepsis
from truth import discounted_survival

AWR = (
    "--dataset icu-sepsis/clinicians-v0 --discount 1.0 --hidden 256 --batch-size 1024 --temperature 10 "
    "--evaluations 1 --probe 1"
)

Estimator = Callable[["Log", "Model"], ValueEstimate]
Row = dict[str, Any]

TEMPERATURE = 0.02  # of the softened optimum, in chances of survival
SHRINKAGE = 1.0  # patients that every treatment of the model is given of its state's mean
BOUND = 20.0  # of the weights of the estimate that has an interval for finite samples
MIXED = 50  # resampled logs, for each estimate by MAGIC
BOOTSTRAPPED = "softened optimum"
BOOTSTRAP = 100  # resampled logs, for each of the smallest ones, with that policy


class Log(NamedTuple):
    """Flat steps of patients, one after the other; `length` is that of each."""

    state: np.ndarray
    action: np.ndarray
    following: np.ndarray
    length: np.ndarray

    @property
    def reward(self) -> Floats:
        return (self.following == SURVIVAL).astype(np.float64)

    @property
    def done(self) -> np.ndarray:
        return self.following >= DEATH

    def patients(self, start: int, stop: int) -> Log:
        """Some of them."""
        ends = np.cumsum(self.length)
        steps = slice(ends[start] - self.length[start], ends[stop - 1])
        return Log(self.state[steps], self.action[steps], self.following[steps], self.length[start:stop])


class Model(NamedTuple):
    """Columns of the steps: the ratios, and the values of a model that was fitted on other patients."""

    reward: Tensor
    q_data: Tensor
    value: Tensor
    next_value: Tensor
    log_ratio: Tensor
    done: Tensor


class Sampler:
    """Treats patients by the clinicians' policy, all of them in parallel, by inversion of one table of all rows."""

    def __init__(self, world: IcuSepsis) -> None:
        self.world = world
        self.first, self.action, self.following = map(
            _Inversion,
            (world.initial[None], world.clinicians, world.transition.reshape(-1, world.transition.shape[-1])),
        )
        self.actions = world.clinicians.shape[1]

    def __call__(self, patients: int, rng: np.random.Generator) -> Log:
        patient = np.arange(patients)
        state = self.first(np.zeros(patients), rng)
        trace = []
        while len(patient):
            action = self.action(state, rng)
            following = self.following(state * self.actions + action, rng)
            trace.append((patient, state, action, following))
            treated = following < DEATH
            patient, state = patient[treated], following[treated]
        who, *columns = (np.concatenate(column) for column in zip(*trace, strict=True))
        order = np.argsort(who, kind="stable")  # by patient, each in time order
        return Log(*(column[order] for column in columns), np.bincount(who))


class _Inversion:
    """Draws from rows of probabilities: row r has the part of a line from r to r + 1."""

    def __init__(self, probability: Floats) -> None:
        row, self.column = probability.nonzero()
        cdf = probability.cumsum(1)
        self.edge = row + np.minimum(cdf / np.maximum(cdf[:, -1:], 1e-300), 1.0)[row, self.column]
        self.edge[np.append(row[1:] != row[:-1], True)] = row[np.append(row[1:] != row[:-1], True)] + 1

    def __call__(self, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.column[np.searchsorted(self.edge, row + rng.random(len(row)), side="right")]


def policies(world: IcuSepsis, learned: Floats) -> dict[str, Floats]:
    """What is evaluated [states, actions]; all but the last stay with treatments that the clinicians gave."""
    q = discounted_survival(world.optimum()[1], 1.0)
    softened = world.clinicians.copy()
    softened[:DEATH] *= np.exp((q - q.max(1, keepdims=True)) / TEMPERATURE)
    return {
        "clinicians, sharper": _normalized(world.clinicians**1.5),
        "softened optimum": _normalized(softened),
        "half uniform": 0.5 * world.clinicians + 0.5 * _normalized((world.clinicians > 0).astype(np.float64)),
        "learned by AWR": learned,
    }


def _normalized(table: Floats) -> Floats:
    return table / np.maximum(table.sum(1, keepdims=True), 1e-300)


def fitted_values(log: Log, policy: Floats) -> tuple[Floats, Floats]:
    """Where fitted Q evaluation with a table settles: Q [states, actions] and V [states], zero at terminal states.

    Each entry is regressed on its own steps and on the mean of its state, which counts as much as `SHRINKAGE` of them;
    a state without a step has the mean return of the log.
    """
    states, actions = policy[:DEATH].shape
    state, cell, reward = log.state, log.state * actions + log.action, log.reward
    count = np.bincount(cell, minlength=states * actions).reshape(states, actions) + SHRINKAGE
    in_state = np.maximum(np.bincount(state, minlength=states), 1)
    rest = (policy[:DEATH] * SHRINKAGE / count).sum(1) / in_state
    weight = policy[state, log.action] / count[state, log.action] + rest[state]
    on = ~log.done
    onward = np.bincount(state[on] * states + log.following[on], weight[on], states**2).reshape(states, states)
    now = np.bincount(state, weight * reward, states)
    now[np.bincount(state, minlength=states) == 0] = mean = reward.sum() / len(log.length)
    value = np.append(np.linalg.solve(np.eye(states) - onward, now), np.zeros(len(policy) - states))
    outcome = reward + value[log.following]
    of_state = np.bincount(state, outcome, states) / in_state
    of_state[np.bincount(state, minlength=states) == 0] = mean
    q = (np.bincount(cell, outcome, states * actions).reshape(states, actions) + SHRINKAGE * of_state[:, None]) / count
    return np.concatenate([q, np.zeros((len(policy) - states, actions))]), value


def columns(log: Log, policy: Floats, behavior: Floats) -> Model:
    """What the estimators take; the model of one half of the patients is fitted on the other."""
    middle = len(log.length) // 2
    halves = log.patients(0, middle), log.patients(middle, len(log.length))
    parts = []
    for half, other in (halves, halves[::-1]):
        q, value = fitted_values(other, policy)
        parts.append((q[half.state, half.action], value[half.state], value[half.following]))
    model = (torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True))
    with np.errstate(divide="ignore"):
        ratio = np.log(policy[log.state, log.action]) - np.log(behavior[log.state, log.action])
    return Model(torch.from_numpy(log.reward), *model, torch.from_numpy(ratio), torch.from_numpy(log.done))


def visit_ratios(log: Log, policy: Floats, discount: float = 1.0) -> Floats:
    """How much oftener than in the log the policy takes each treatment in each state [states, actions].

    Where `dual_dice_loss` of a table is least if each next value is the mean over the log's next states of that
    treatment; at a discount of one of visits to one patient. Only treatments of the log are given, each for its share.
    """
    states, actions = policy[:DEATH].shape
    count = np.bincount(log.state * actions + log.action, minlength=states * actions).reshape(states, actions)
    share = _normalized(policy[:DEATH] * (count > 0)) / np.maximum(count, 1)
    on = ~log.done
    onward = np.bincount(log.following[on] * states + log.state[on], share[log.state, log.action][on], states**2)
    first = np.bincount(log.state[np.cumsum(log.length) - log.length], minlength=states)
    visits = np.linalg.solve(np.eye(states) - discount * onward.reshape(states, states), first)
    return visits[:, None] * share


def _by_visits(log: Log, policy: Floats) -> ValueEstimate:
    """Rewards times the ratios of visits; the error takes the ratios as they are."""
    ratio, patients = visit_ratios(log, policy)[log.state, log.action], len(log.length)
    gain = np.bincount(np.repeat(np.arange(patients), log.length), ratio * log.reward)
    size = ol.effective_sample_size(torch.from_numpy(ratio)) * patients / len(ratio)
    return ValueEstimate(torch.tensor(gain.mean()), torch.tensor(gain.std(ddof=1) / patients**0.5), size)


def _by_ratios(name: str) -> Estimator:
    return lambda log, x: getattr(ol, name)(x.reward, x.log_ratio, x.done, discount=1.0)


def _by_both(name: str) -> Estimator:
    return lambda log, x: getattr(ol, name)(*x, x.done, discount=1.0)


def _model_alone(log: Log, x: Model) -> ValueEstimate:
    start = torch.from_numpy(np.cumsum(log.length) - log.length)
    value = x.value[start]
    return ValueEstimate(value.mean(), value.std() / len(value) ** 0.5, torch.tensor(float(len(value))))


ESTIMATORS: dict[str, Estimator] = {
    "model_alone": _model_alone,
    **{
        name: _by_ratios(name)
        for name in (
            "importance_sampling_value",
            "weighted_importance_sampling_value",
            "per_decision_value",
            "weighted_per_decision_value",
        )
    },
    **{name: _by_both(name) for name in ("doubly_robust_value", "weighted_doubly_robust_value")},
}


def measured(sample: Sampler, chosen: dict[str, Floats], sizes: list[int], seed: int) -> Iterator[Row]:
    """Of one log, by size, policy and estimator: the estimate, and whether its interval holds the truth."""
    whole = sample(max(sizes), np.random.default_rng([seed, 1]))
    for name, policy in chosen.items():
        truth = sample.world.survival(policy)
        for size in sizes:
            log = whole.patients(0, size)
            x = columns(log, policy, sample.world.clinicians)
            here = {"policy": name, "patients": size}
            for estimator, function in ESTIMATORS.items():
                yield {**here, "name": estimator, **_against(truth, function(log, x))}
            yield {**here, "name": "magic_value", **_against(truth, _mixed(x, seed))}
            yield {**here, "name": "dual_dice_loss", **_against(truth, _by_visits(log, policy))}
            yield {**here, "name": "Bernstein", **_bernstein(x, size, truth)}
            if size == min(sizes) and name == BOOTSTRAPPED:
                yield {**here, "name": "bootstrap", "covers": _bootstrap(x, seed, truth)}


def _against(truth: float, found: ValueEstimate) -> Row:
    low, high = ol.normal_interval(found.value, found.standard_error)
    return {
        "value": found.value.item(),
        "standard_error": found.standard_error.item(),
        "effective_sample_size": found.effective_sample_size.item(),
        "covers": bool(low <= truth <= high),
    }


def _mixed(x: Model, seed: int) -> ValueEstimate:
    generator = torch.Generator().manual_seed(seed)
    return ol.magic_value(*x, x.done, discount=1.0, generator=generator, resamples=MIXED)


def _bernstein(x: Model, size: int, truth: float) -> Row:
    """The lower end, a promise for rewards of at least zero, and whether it is below the truth."""
    value, error, _ = ol.importance_sampling_value(x.reward, x.log_ratio, x.done, discount=1.0, max_weight=BOUND)
    low = ol.empirical_bernstein_interval(value, error, count=size, spread=BOUND).low.item()
    return {"low": low, "covers": low <= truth}


def _bootstrap(x: Model, seed: int, truth: float) -> bool:
    estimator = partial(ol.weighted_per_decision_value, discount=1.0)
    log = {"reward": x.reward, "log_ratio": x.log_ratio, "done": x.done}
    generator = torch.Generator().manual_seed(seed)
    low, high = ol.bootstrap_interval(estimator, log, generator=generator, resamples=BOOTSTRAP)
    return bool(low <= truth <= high)


def staying(world: IcuSepsis, part: Floats) -> float:
    """The share of patients that are treated to the end by a part of a policy, what is missing to 1 being none."""
    onward = np.einsum("sa,sat->st", part[:DEATH], world.transition[:DEATH])
    ended = np.linalg.solve(np.eye(DEATH) - onward[:, :DEATH], onward[:, DEATH:].sum(1))
    return float(world.initial[:DEATH] @ ended)


def summary(world: IcuSepsis, chosen: dict[str, Floats], rows: list[Row]) -> dict[str, Any]:
    """Of each policy what is exact, and over all logs bias, spread and coverage."""
    given = world.clinicians > 0
    about = {
        name: {
            "truth": world.survival(policy),
            "within_the_data": world.survival(policy * given),  # what the ratios can see of it
            "stays": staying(world, policy * given),
        }
        for name, policy in chosen.items()
    }
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["policy"], row["patients"], row["name"]), []).append(row)
    table = []
    for (policy, patients, name), group in groups.items():
        line = {"policy": policy, "patients": patients, "name": name}
        line["coverage"] = float(np.mean([row["covers"] for row in group]))
        if "low" in group[0]:
            line["low"] = float(np.median([row["low"] for row in group]))
        if "value" in group[0]:
            value = np.array([row["value"] for row in group])
            error = np.array([row["standard_error"] for row in group])
            line |= {
                "bias": float(value.mean() - about[policy]["truth"]),
                "deviation": float(value.std(ddof=1)),
                "claimed_error": float(np.median(error)),
                "effective_sample_size": float(np.median([row["effective_sample_size"] for row in group])),
                "quantiles": np.quantile(value, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist(),
            }
        table.append(line)
    return {"clinicians": world.survival(world.clinicians), "policies": about, "table": table}


def learned_policy(world: IcuSepsis, steps: int, folder: Path) -> Floats:
    """Probabilities [states, actions] of the policy that `awr.py` learns from 20 000 of the clinicians' patients."""
    import awr
    from saved import load_policy
    from truth import probability_table

    awr.main([*AWR.split(), "--steps", str(steps), "--out", str(folder)])
    saved = load_policy(folder)
    return probability_table(lambda observation: saved.policy.probability(saved.encoding.observe(observation)))
