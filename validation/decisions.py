"""Open Bandit: real clicks on items that a random policy and a Thompson sampler showed in the same week, each logged.

The sample that the package obp 0.4.1 carries has 10 000 impressions of each policy in three campaigns. Its tables are
read from the wheel as text; the package is neither installed nor imported. The propensities are the recorded ones: the
sampler was learning, so that no policy which is rebuilt afterwards is the one that chose.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import offline_losses as ol

WHEEL = "obp==0.4.1"
CAMPAIGNS = "all", "men", "women"
POLICIES = {"random": "random", "Thompson": "bts"}  # as the folders are called
PRIOR = 100.0  # impressions that every item is given of the mean click rate


class Impressions(NamedTuple):
    """What was shown where, what came of it, and with which probability it was chosen."""

    item: np.ndarray
    position: np.ndarray
    click: np.ndarray
    propensity: np.ndarray

    def take(self, rows: Any) -> Impressions:
        """Some of them."""
        return Impressions(*(column[rows] for column in self))


class Question(NamedTuple):
    """What would the policy [items, positions] have earned on the log, and what its own log says."""

    log: Impressions
    policy: np.ndarray
    own: Impressions


def wheel(folder: Path) -> Path:
    """The file in that folder, downloaded if it is not there."""
    found = sorted(folder.glob("obp-0.4.1-*.whl"))
    if not found:
        download = "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL
        subprocess.run([sys.executable, *download], check=True)
        found = sorted(folder.glob("obp-0.4.1-*.whl"))
    return found[0]


def impressions(file: Path, policy: str, campaign: str) -> Impressions:
    """One table of the wheel."""
    with zipfile.ZipFile(file) as archive:
        text = archive.read(f"obp/dataset/obd/{POLICIES[policy]}/{campaign}/{campaign}.csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    item, position = (np.array([int(row[name]) for row in rows]) for name in ("item_id", "position"))
    click, propensity = (np.array([float(row[name]) for row in rows]) for name in ("click", "propensity_score"))
    return Impressions(item, position - 1, click, propensity)


def questions(file: Path, campaign: str) -> dict[str, Question]:
    """Each policy on the log of the other: the sampler by how often it showed an item, on average over its week."""
    random, thompson = (impressions(file, policy, campaign) for policy in POLICIES)
    items, positions = max(random.item.max(), thompson.item.max()) + 1, random.position.max() + 1
    shown = np.bincount(thompson.item * positions + thompson.position, minlength=items * positions)
    shown = shown.reshape(items, positions) / np.bincount(thompson.position, minlength=positions)
    return {
        "Thompson": Question(random, shown, thompson),
        "random": Question(thompson, np.full((items, positions), 1 / items), random),
    }


def rates(log: Impressions, items: int) -> np.ndarray:
    """The model: clicks on each item, drawn towards the mean."""
    clicks, count = np.bincount(log.item, log.click, items), np.bincount(log.item, minlength=items)
    return (clicks + PRIOR * log.click.mean()) / (count + PRIOR)


def fitted(question: Question) -> np.ndarray:
    """The model [impressions, items], for every other impression that of the rest."""
    even = np.arange(len(question.log.item)) % 2 == 0
    return np.where(even[:, None], *(rates(question.log.take(rows), len(question.policy)) for rows in (~even, even)))


def columns(question: Question) -> dict[str, Tensor]:
    """What the estimators take."""
    log, policy, _ = question
    model = fitted(question)
    found = {
        "reward": log.click,
        "policy_probability": policy[log.item, log.position],
        "propensity": log.propensity,
        "q_data": model[np.arange(len(model)), log.item],
        "value": (model * policy.T[log.position]).sum(1),
    }
    return {name: torch.from_numpy(column) for name, column in found.items()}


def estimates(x: dict[str, Tensor]) -> dict[str, ol.ValueEstimate]:
    """By every estimator for single decisions."""
    ratio = {name: x[name] for name in ("reward", "policy_probability", "propensity")}
    return {
        "ips_value": ol.ips_value(**ratio),
        "self_normalized_ips_value": ol.self_normalized_ips_value(**ratio),
        "bandit_doubly_robust_value": ol.bandit_doubly_robust_value(**x),
    }


def table(file: Path) -> list[dict[str, Any]]:
    """Each estimate beside what the policy earned on its own log."""
    rows = []
    for campaign in CAMPAIGNS:
        for policy, question in questions(file, campaign).items():
            own = torch.from_numpy(question.own.click)
            about = {"campaign": campaign, "policy": policy, "samples": len(question.log.item)}
            about |= {"own": own.mean().item(), "own_error": own.std().item() / len(own) ** 0.5}
            for name, (value, error, size) in estimates(columns(question)).items():
                low, high = ol.normal_interval(value, error)
                row = {"name": name, "value": value.item(), "low": low.item(), "high": high.item()}
                rows.append(about | row | {"standard_error": error.item(), "effective_sample_size": size.item()})
    return rows
