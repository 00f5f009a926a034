"""A learned policy as one file, `policy.pt`, that can be loaded without the recipe's arguments.

`torch.save` of a dict of tensors, numbers and words, read with `weights_only=True`, so that nothing in it is run:

- `recipe` and `dataset`: where it comes from.
- `policy`: the script and the class, such as `["networks", "GaussianPolicy"]`; `built_from`: the class's arguments;
  `weights`: its `state_dict`.
- `observation_space`, `action_space`: as Minari writes them, in JSON.
- `mean`, `std`: of the observations as vectors; `bounds`: of continuous actions, `[2, A]`, which become [-1, 1];
  `scale`: of the rewards. See `encoding.py`.
"""

from __future__ import annotations

import importlib
import inspect
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from encoding import Encoding
from minari.serialization import deserialize_space, serialize_space
from networks import Deployable
from task import Deployed, Remembering, Task

from offline_losses import ObservationStatistics


class SavedPolicy(NamedTuple):
    """`policy` takes `encoding.observe(observation)` and says what `encoding.to_environment` translates.

    `log_prob` and `probability`, of the policies that have them, are of encoded actions: densities in [-1, 1].
    """

    recipe: str
    dataset: str
    policy: Deployable
    encoding: Encoding
    scale: float

    def begin(self) -> Deployed:
        """From observations of episodes that begin, or go on, to actions, both in the environment's units."""
        policy = self.policy.begin() if isinstance(self.policy, Remembering) else self.policy
        return Deployed(policy, self.encoding, self.scale)


def save_policy(path: Path, recipe: str, task: Task, policy: Deployable) -> None:
    encoding, kind = task.encoding, type(policy)
    content = {
        "recipe": recipe,
        "dataset": task.dataset,
        "policy": [Path(inspect.getfile(kind)).stem, kind.__name__],
        "built_from": list(policy.built_from),
        "weights": {key: tensor.cpu() for key, tensor in policy.state_dict().items()},
        "observation_space": serialize_space(encoding.observation_space),
        "action_space": serialize_space(encoding.action_space),
        "mean": encoding.statistics.mean.cpu(),
        "std": encoding.statistics.std.cpu(),
        "bounds": encoding.bounds,
        "scale": task.scale,
    }
    torch.save(content, path)


def load_policy(path: str | PathLike[str]) -> SavedPolicy:
    """The policy that a recipe saved in that file, or in that folder with `--out`; on the CPU."""
    file = Path(path) / "policy.pt" if Path(path).is_dir() else Path(path)
    content = torch.load(file, weights_only=True)
    script, name = content["policy"]
    if script not in {source.stem for source in Path(__file__).parent.glob("*.py")}:
        raise ValueError(f"load_policy: {file}: expected the policy of a recipe beside this script, got {script}.py.")
    policy = getattr(importlib.import_module(script), name)(*content["built_from"])
    policy.load_state_dict(content["weights"])
    encoding = Encoding(
        deserialize_space(content["observation_space"]),
        deserialize_space(content["action_space"]),
        ObservationStatistics(content["mean"], content["std"]),
        content["bounds"],
    )
    return SavedPolicy(content["recipe"], content["dataset"], policy.requires_grad_(False), encoding, content["scale"])
