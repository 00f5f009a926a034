#!/usr/bin/env bash
# AgileRL 2.58.0. `MultiStepReplayBuffer` adds up the rewards of n steps and stops at the end of an episode, but it looks for
# that end from the second of the n steps on. A row that begins with the last step of an episode takes the first rewards of
# the next one, that episode's state for its next, and loses its own mark of an end. Every episode's last step is such a row.
# Seen, for rewards of 1, an episode of four steps and another behind it, n = 3 and a discount of 0.5: the fourth step has the
# return 1.75, the next state 6 and no end, where it should have 1.0, 4 and an end; the others are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
needs="accelerate==1.15.0 dill==0.4.1 fastrand==3.1.0 gymnasium==1.4.0 lazy-loader==0.6 numpy==2.4.6 peft==0.21.0"
needs="$needs pettingzoo==1.26.1 pillow==13.0.0 tensordict==0.13.0 transformers==5.14.1 wandb==0.31.0"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 $needs
"$folder/venv/bin/pip" install --quiet --no-deps agilerl==2.58.0 agilerl-arena==1.29.0
cat > "$folder/run.py" <<'PY'
import torch
from agilerl.components.replay_buffer import MultiStepReplayBuffer
from tensordict import TensorDict

buffer = MultiStepReplayBuffer(max_size=16, n_step=3, gamma=0.5)
for step in range(8):
    row = {"obs": step, "action": 0, "reward": 1, "next_obs": step + 1, "done": step == 3}
    buffer.add(TensorDict({key: torch.tensor([[float(value)]]) for key, value in row.items()}, [1]))
for row in range(5):
    print([buffer.storage[key][row].item() for key in ("obs", "reward", "next_obs", "done")])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep '^\[')
echo "$seen"
[ "$seen" = "[0.0, 1.75, 3.0, 0.0]
[1.0, 1.75, 4.0, 1.0]
[2.0, 1.5, 4.0, 1.0]
[3.0, 1.75, 6.0, 0.0]
[4.0, 1.75, 7.0, 0.0]" ]
