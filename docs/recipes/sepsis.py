"""ICU-Sepsis, a clinical world that is known exactly: a Markov decision process estimated from intensive-care records.

716 states, 25 treatments (5 levels of fluids times 5 of vasopressors), the clinicians' own policy, and the centers of
the states as 47 features. It was made from MIMIC-III records by Choudhary, Gupta and Thomas, "ICU-Sepsis: A Benchmark
MDP Built from Real Medical Data" (2024), arXiv:2406.05646, and its numbers come in the package `icu-sepsis` (MIT).
Only its file of arrays is read; the package itself, which needs the retired gym, is never imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Patient = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

DEATH, SURVIVAL = 713, 714  # the states before them are patients under treatment; after them nothing happens


class IcuSepsis:
    """The process and what can be computed exactly about it. The only reward is 1 for survival; nothing is discounted.

    Attributes:
        transition: [S, A, S], probability of the next state.
        initial: [S], distribution of the first state.
        clinicians: [S, A], the clinicians' policy; rows of terminal states are zero.
        admissible: bool [S, A], treatments that the clinicians gave often enough to tell their effect; all others
            act like the mean of the admissible ones.
        features: float32 [S, 47], the state centers; zero at terminal states.
    """

    def __init__(self) -> None:
        package = find_spec("icu_sepsis")
        if package is None or not package.submodule_search_locations:
            raise ImportError("IcuSepsis: the arrays are not installed. pip install --no-deps icu-sepsis==2.0.1")
        assets = Path(package.submodule_search_locations[0]) / "envs" / "assets"
        with np.load(assets / "dynamics.npz", allow_pickle=False) as arrays:
            self.transition: Floats = arrays["tx_mat"]
            self.initial: Floats = arrays["d_0"]
            self.clinicians: Floats = arrays["expert_policy"]
            self.features: npt.NDArray[np.float32] = arrays["state_cluster_centers"].astype(np.float32)
        self.admissible = np.zeros(self.clinicians.shape, dtype=bool)
        rows = (assets / "admissible_actions.txt").read_text().splitlines()[1:]  # the first line holds their counts
        for state, row in enumerate(rows):
            self.admissible[state, [int(action) for action in row.split()]] = True

    def survival(self, policy: npt.ArrayLike) -> float:
        """Probability that a patient survives under `policy` [S, A] (rows: action probabilities), exactly."""
        return float(self.initial[:DEATH] @ self._survival_by_state(np.asarray(policy, dtype=np.float64)))

    def optimum(self) -> tuple[float, Floats]:
        """The best survival of any policy, and a deterministic policy [S, A] that attains it (policy iteration)."""
        rows = np.arange(DEATH)
        policy = np.full_like(self.clinicians, 1 / self.clinicians.shape[1])
        while True:
            value = self._survival_by_state(policy)
            q = self.transition[:DEATH, :, SURVIVAL] + self.transition[:DEATH, :, :DEATH] @ value
            best = q.argmax(axis=1)
            if np.all(q[rows, best] <= value + 1e-12):  # greater by rounding only: no state can be improved
                return float(self.initial[:DEATH] @ value), policy
            policy = np.zeros_like(policy)
            policy[rows, best] = 1.0

    def sample(self, patients: int, rng: np.random.Generator, policy: npt.ArrayLike | None = None) -> list[Patient]:
        """Treats patients by `policy` (the clinicians') until each has died or survived, all of them in parallel.

        Returns:
            For each patient the states [T + 1], the last one terminal, and the actions [T].
        """
        chosen = self.clinicians if policy is None else np.asarray(policy, dtype=np.float64)
        action_cdf, state_cdf = _cdf(chosen), _cdf(self.transition)
        patient = np.arange(patients)
        state = _draw(np.broadcast_to(_cdf(self.initial), (patients, len(self.initial))), rng)
        trace: list[tuple[npt.NDArray[Any], ...]] = []
        while len(patient):
            action = _draw(action_cdf[state], rng)
            following = _draw(state_cdf[state, action], rng)
            trace.append((patient, state, action, following))
            treated = following < DEATH
            patient, state = patient[treated], following[treated]
        who, states, actions, followings = (np.concatenate(column) for column in zip(*trace, strict=True))
        order = np.argsort(who, kind="stable")  # by patient, each in time order
        ends = np.cumsum(np.bincount(who, minlength=patients))
        pieces = (np.split(column[order], ends[:-1]) for column in (states, followings, actions))
        return [(np.append(visited, then[-1]), given) for visited, then, given in zip(*pieces, strict=True)]

    def _survival_by_state(self, policy: Floats) -> Floats:
        """v = P_π v + (probability to survive in this step), over the states under treatment."""
        probability = policy[:DEATH]
        onward = np.einsum("sa,sat->st", probability, self.transition[:DEATH, :, :DEATH])
        now = (probability * self.transition[:DEATH, :, SURVIVAL]).sum(axis=1)
        return np.linalg.solve(np.eye(DEATH) - onward, now)


def _cdf(probability: Floats) -> Floats:
    cdf = probability.cumsum(axis=-1)
    return cdf / np.maximum(cdf[..., -1:], np.finfo(np.float64).tiny)


def _draw(cdf: Floats, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """One index for each row, by inversion."""
    return (cdf <= rng.random((len(cdf), 1))).sum(axis=-1)
