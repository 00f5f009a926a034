#!/usr/bin/env bash
# tianshou 2.0.1. Weights of a prioritized buffer are at most 1, that of the row with the smallest priority. With
# `weight_norm=False` each is p^alpha over the smallest p, to the power of -`beta`: the smallest p lacks its own power of `alpha`, and
# is moreover the smallest that ever was, or 1. So all weights have a common factor that falls as errors fall and never rises again: a learning
# rate that fades. With `weight_norm=True`, the default, each batch is divided by its own largest weight, which hides it.
# Seen, with `alpha` 0.5 and `beta` 1, for the priorities 0.04, 0.16 and 0.64: the weights 0.2, 0.1 and 0.05, where 1.0, 0.5 and
# 0.25 is right; for three of 1.0 after that 0.04 each, where 1.0 is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 tianshou==2.0.1 gymnasium==1.4.0 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import numpy
from tianshou.data import Batch, PrioritizedReplayBuffer

for options in ({"weight_norm": False}, {}):
    buffer = PrioritizedReplayBuffer(size=3, alpha=0.5, beta=1.0, **options)
    for step in range(3):
        row = {"obs": step, "act": 0, "rew": 0.0, "obs_next": step + 1}
        buffer.add(Batch(terminated=False, truncated=step == 2, info={}, **row))
    rows = numpy.arange(3)
    for priorities in ([0.04, 0.16, 0.64], [1.0, 1.0, 1.0]):
        buffer.update_weight(rows, numpy.array(priorities))
        print("weights", [round(float(x), 3) for x in buffer[rows].weight])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep '^weights')
echo "$seen"
[ "$seen" = "weights [0.2, 0.1, 0.05]
weights [0.04, 0.04, 0.04]
weights [1.0, 0.5, 0.25]
weights [1.0, 1.0, 1.0]" ]
