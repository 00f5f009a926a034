#!/usr/bin/env bash
# LeRobot 0.4.4, the last for Python 3.11; 0.6.1 computes this alike. A dataset's quantiles, by which policies such as pi0.5
# scale states and actions to [-1, 1], are the means of the episodes' quantiles, and not the quantiles of all steps. Where
# episodes lie apart, as they do with different places and goals, the range between them is about that of one episode, and
# the scaled actions leave [-1, 1] by far. Mean, spread and extremes are put together rightly.
# Seen, for ten episodes with actions uniform in [0, 1], [1, 2], ... [9, 10]: the quantiles of 1% and 99% are 4.5 and
# 5.5 where those of the actions are 0.1 and 9.9, so that the largest action is scaled to 10.2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
needs="accelerate==1.15.0 datasets==4.8.5 jsonlines==4.0.0 numpy==2.4.6 pandas==3.1.1 pyarrow==26.0.1 pillow==13.0.0"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 $needs
"$folder/venv/bin/pip" install --quiet --no-deps lerobot==0.4.4
cat > "$folder/run.py" <<'PY'
import sys
import types

import datasets
import numpy

sys.modules["torchvision"] = types.SimpleNamespace(transforms=None)  # imported beside the statistics, and not used by them
from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats

random = numpy.random.default_rng(0)
features = {"action": {"dtype": "float32", "shape": (1,)}}
episodes = [random.uniform(low, low + 1, (2000, 1)).astype(numpy.float32) for low in range(10)]
found = aggregate_stats([compute_episode_stats({"action": actions}, features) for actions in episodes])["action"]
actions = numpy.concatenate(episodes)
low, high = float(found["q01"][0]), float(found["q99"][0])
print("taken", round(low, 1), round(high, 1))
print("true", *(round(float(x), 1) for x in numpy.quantile(actions, (0.01, 0.99))))
print("scaled", round(2 * (float(actions.max()) - low) / (high - low) - 1, 1))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "taken 4.5 5.5
true 0.1 9.9
scaled 10.2" ]
