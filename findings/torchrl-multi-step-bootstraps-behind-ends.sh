#!/usr/bin/env bash
# TorchRL 0.14.1. `MultiStep` and `MultiStepTransform` give each step the rewards of the next n steps and the observation
# that follows them, and stop both at the end of the episode. But `terminated` and `done` stay those of the step itself, so
# that of the n steps which reach the end only the last one has them; the entry "nonterminal" is read by no loss. The others
# take the terminal state's value for its future: whatever the critic says of a state in which nothing follows.
# Seen, for rewards of 1, an end after the third step, n = 3, a discount of 0.5 and a critic that says 100 everywhere, the
# targets of the three steps: 14.25, 26.5 and 1.0 by both, where 1.75, 1.5 and 1.0 is what they earn.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchrl==0.14.1 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.postprocs import MultiStep
from torchrl.envs.transforms import MultiStepTransform
from torchrl.objectives.value import TD0Estimator

steps, end = 6, torch.tensor([[0], [0], [1], [0], [0], [0]]).bool()
numbers = torch.arange(steps + 1.0).unsqueeze(1)
after = {"observation": numbers[1:], "reward": torch.ones(steps, 1), "done": end, "terminated": end}
rollout = TensorDict({"observation": numbers[:-1], "next": after}, [steps])

transform = MultiStepTransform(n_steps=3, gamma=0.5)
buffer = ReplayBuffer(storage=LazyTensorStorage(steps), transform=transform, batch_size=3)
buffer.extend(rollout.clone())
critic = TensorDictModule(lambda x: torch.full_like(x, 100.0), in_keys=["observation"], out_keys=["state_value"])
for rows in (MultiStep(n_steps=3, gamma=0.5)(rollout.clone()), buffer[:]):
    target = TD0Estimator(gamma=0.5, value_network=critic).value_estimate(rows)
    print(rows["next", "terminated"][:3].flatten().tolist(), target[:3].flatten().tolist())
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep '^\[[FT]')
echo "$seen"
[ "$seen" = "[False, False, True] [14.25, 26.5, 1.0]
[False, False, True] [14.25, 26.5, 1.0]" ]
