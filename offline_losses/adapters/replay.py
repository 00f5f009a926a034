"""The environment of a recorded dataset, and how far what it shows lies from what was recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium import spaces


def recorded_environment(
    dataset: minari.MinariDataset, *, caller: str = "recorded_environment", evaluation: bool = False
) -> gymnasium.Env[Any, Any]:
    """Makes the environment that a dataset was recorded in, or with `evaluation` the one it is to be evaluated in.

    Args:
        dataset: a `MinariDataset`.
        caller: the function that errors name.
        evaluation: whether to make the evaluation environment, where the dataset records one.

    Raises:
        ValueError: the dataset records no environment.
        ImportError: the package that provides it is missing, or has no such environment.
    """
    if dataset.env_spec is None:
        raise ValueError(
            f"{caller}: dataset {dataset.id!r}: expected a recorded environment, got env_spec=None. "
            "Compare the dataset's action space with your environment's by hand."
        )
    try:
        environment: gymnasium.Env[Any, Any] = dataset.recover_environment(eval_env=evaluation)
    except (gymnasium.error.Error, ImportError, AttributeError) as error:
        packages = " ".join(map(repr, dataset.storage.metadata.get("requirements") or ()))
        mend = f"It was recorded with: pip install {packages}" if packages else "Install the package that provides it"
        got = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        raise ImportError(
            f"{caller}: dataset {dataset.id!r}: expected its environment {dataset.env_spec.id!r} to be installed, "
            f"got {got}. {mend}."
        ) from error
    return environment


def distance(space: spaces.Space[Any], replayed: Any, recorded: Any) -> float:
    """The largest difference of observations, in float64; infinite where one alone is NaN, or shapes or keys differ."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        children = dict(space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces))
        shown = replayed if isinstance(replayed, Mapping) else dict(enumerate(replayed))
        if shown.keys() != children.keys():
            return math.inf
        return max((distance(child, shown[key], recorded[key]) for key, child in children.items()), default=0.0)
    if isinstance(space, spaces.Text):
        return 0.0 if replayed == recorded else math.inf
    new, old = (np.asarray(array).astype(np.float64) for array in (replayed, recorded))  # bytes would wrap around
    if new.shape != old.shape:
        return math.inf
    same = (new == old) | (np.isnan(new) & np.isnan(old))  # infinities too, whose difference is NaN
    error = np.abs(np.subtract(new, old, out=np.zeros_like(new), where=~same))
    return float(np.max(np.where(np.isnan(error), math.inf, error), initial=0.0))
