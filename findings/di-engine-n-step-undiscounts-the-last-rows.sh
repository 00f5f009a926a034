#!/usr/bin/env bash
# DI-engine 0.5.3. `get_nstep_return_data` gives each row the rewards of n steps and the discount of the value behind them, as
# "value_gamma", since the rows near the end of a piece have fewer than n. In the last n rows the exponent is one too low: the
# last row is that of one step, and the value behind it is not discounted at all. Where the piece ends an episode nothing
# follows; where it was cut, by a time limit or the collector, those targets are too large by 1 / gamma.
# Seen, for five steps without an end, n = 3 and a discount of 0.5, the steps and the discount of each row: 3 0.125, 3 0.125,
# 3 0.25, 2 0.5 and 1 1.0, where 0.125 three times, 0.25 and 0.5 is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
needs="easydict==1.14 einops==0.8.2 enum-tools==0.13.0 flask==2.0.3 gym==0.25.1 gymnasium==1.4.0 h5py==3.16.0 hbutils==0.14.2"
needs="$needs numpy==1.26.4 pyyaml==6.0.4 requests==2.34.2 rich==15.0.0 tabulate==0.10.0 tensorboardX==2.6.5 treevalue==1.5.0"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 $needs urlobject==3.0.0 werkzeug==2.0.3
"$folder/venv/bin/pip" install --quiet --no-deps DI-engine==0.5.3 DI-toolkit==0.3.0 DI-treetensor==0.5.0
cat > "$folder/run.py" <<'PY'
from collections import deque

import torch
from ding.rl_utils import get_nstep_return_data

numbers = [torch.tensor([float(step)]) for step in range(6)]
piece = deque(
    {"obs": numbers[step], "next_obs": numbers[step + 1], "reward": torch.ones(1), "done": False} for step in range(5)
)
for row in get_nstep_return_data(piece, nstep=3, gamma=0.5):
    steps = int(row["reward"].sum())
    assert row["next_obs"] - row["obs"] == steps
    print("row", steps, row["value_gamma"])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep '^row')
echo "$seen"
[ "$seen" = "row 3 0.125
row 3 0.125
row 3 0.25
row 2 0.5
row 1 1.0" ]
