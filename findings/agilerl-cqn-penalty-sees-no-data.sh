#!/usr/bin/env bash
# AgileRL 2.58.0. `CQN` is named as conservative Q-learning for discrete actions: its penalty lowers all values and raises
# those of the actions in the data. What it subtracts from the logsumexp is the mean over all actions of a state, so that the
# penalty is the same whatever the data did: it pulls the values of a state together. An action that never occurs is not
# lowered, it is lifted to those that do, and above the worse of them. Nothing is said.
# Seen, in a state with three actions: with the first alone in the data, paying 1, the values [1.0, 1.0, 1.0]; with the first
# two, paying 1 and 0, the third is worth 0.5, where the penalty of the paper would lower it without end.
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
from agilerl.algorithms.cqn import CQN
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict

rows, state = 64, torch.zeros(64, 1)
for pays in ([1.0], [1.0, 0.0]):
    torch.manual_seed(0)
    agent = CQN(observation_space=Box(-1, 1, (1,)), action_space=Discrete(3), lr=0.003)
    action = (torch.arange(rows) % len(pays)).unsqueeze(1)
    data = {"obs": state, "next_obs": state, "action": action, "reward": torch.tensor(pays)[action], "done": state + 1}
    for _ in range(1500):
        agent.learn(TensorDict(data, [rows]).clone())
    print(pays, [round(x, 1) for x in agent.actor(state[:1])[0].tolist()])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep '^\[')
echo "$seen"
[ "$seen" = "[1.0] [1.0, 1.0, 1.0]
[1.0, 0.0] [0.8, 0.2, 0.5]" ]
