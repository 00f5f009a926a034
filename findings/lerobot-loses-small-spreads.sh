#!/usr/bin/env bash
# LeRobot 0.4.4, the last for Python 3.11; 0.6.1 computes this alike. The standard deviation of a feature is the root of its
# mean square less the square of its mean, both in single precision, as the data are. Where a feature varies little beside
# its size, as encoder ticks do or a joint that is held, only rounding is left of the difference: the deviation is zero or
# far too large, though the minimum, the maximum and the quantiles are right. Normalization divides by it, plus 1e-8.
# Seen, for 1000 steps around 10000, 2048 and 90 with deviations of 0.1, 0.01 and 0.0005: none of the three is found within a
# factor of two (2.8, 0.0 and 0.022 on one machine), where NumPy finds all of them; around 0 with 0.1 both do.
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
from lerobot.datasets.compute_stats import compute_episode_stats

random = numpy.random.default_rng(0)
features = {"state": {"dtype": "float32", "shape": (1,)}}
for mean, deviation in ((0.0, 0.1), (10000.0, 0.1), (2048.0, 0.01), (90.0, 0.0005)):
    states = random.normal(mean, deviation, (1000, 1)).astype(numpy.float32)
    found = float(compute_episode_stats({"state": states}, features)["state"]["std"][0])
    print(mean, deviation, *(deviation / 2 < x < deviation * 2 for x in (found, float(states.std()))))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "0.0 0.1 True True
10000.0 0.1 False True
2048.0 0.01 False True
90.0 0.0005 False True" ]
