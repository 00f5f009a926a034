#!/usr/bin/env bash
# TorchRL 0.14.1. `HERReplayBuffer` takes the goals of hindsight by default from "achieved_goal" of a later row, which is what was achieved
# before that row's action; what it achieved stands in "next", and `achieved_goal_key=("next", "achieved_goal")` asks for it. So "final" is not the state in which the episode ended, as it is
# described, but the one before, and "future" begins with the state that the row starts from. The last row is told to reach
# where it already is, and is paid for nothing; the end of an episode is the goal of no row.
# Seen, for an episode over the states 0 to 4 and a reward of 1 for a next state that is the goal: by "final" the goal 3 for all
# four rows and the rewards 0, 0, 1, 0, where 4 and 0, 0, 0, 1 is right; by "future" the goals 0 to 3, for the last row 3 alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 torchrl==0.14.1 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import torch
from tensordict import TensorDict
from torchrl.data import HERReplayBuffer, LazyTensorStorage


def reached(rows):
    return (rows["next", "achieved_goal"] == rows["desired_goal"]).float()


torch.manual_seed(0)
states, end = torch.arange(5.0).unsqueeze(1), torch.tensor([[False], [False], [False], [True]])
after = {"achieved_goal": states[1:], "reward": torch.zeros(4, 1), "done": end, "terminated": end}
episode = TensorDict({"achieved_goal": states[:-1], "desired_goal": states[:-1] - 9, "next": after}, [4])
for strategy in ("final", "future"):
    options = {"her_ratio": 1.0, "strategy": strategy, "storage": LazyTensorStorage(4), "batch_size": 1000}
    buffer = HERReplayBuffer(reached, **options)
    buffer.extend(episode.clone())
    rows = buffer.sample()
    for state in range(4):
        chosen = rows[rows["achieved_goal"].squeeze(1) == state]
        goals, rewards = (chosen[key].unique().tolist() for key in ("desired_goal", ("next", "reward")))
        print(strategy, state, goals, rewards)
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep '^f')
echo "$seen"
[ "$seen" = "final 0 [3.0] [0.0]
final 1 [3.0] [0.0]
final 2 [3.0] [1.0]
final 3 [3.0] [0.0]
future 0 [0.0, 1.0, 2.0, 3.0] [0.0, 1.0]
future 1 [1.0, 2.0, 3.0] [0.0, 1.0]
future 2 [2.0, 3.0] [0.0, 1.0]
future 3 [3.0] [0.0]" ]
