#!/usr/bin/env bash
# SCOPE-RL 0.2.1. Of its four kinds of intervals of a policy's value, "hoeffding" multiplies by the number of episodes
# under the root where its own formula divides by it: a hundred times the episodes make it ten times wider instead of ten
# times narrower, and it takes the largest sample for the range, so that with negative rewards the lower end lies above
# the upper one. "ttest" takes the quantile of one side for both, and covers 90% where 95% are asked for and named in the
# result. (`select_by_policy_value_lower_bound` selects by the lower ends.)
# Seen: the widths of "hoeffding" for 25 and 2500 episodes of return 1, 13.6 and 135.8, where dividing gives 0.54 and
# 0.05; its ends for returns of -1, [5.8, -7.8]; and the share of 2000 samples of 10 returns each, normal around zero,
# whose "ttest" interval of 95% holds zero, 0.9.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 scope-rl==0.2.1 d3rlpy==2.8.1 numpy==2.4.6 scikit-learn==1.9.1
cat > "$folder/run.py" <<'PY'
import numpy
from scope_rl.ope.discrete import TrajectoryWiseImportanceSampling


def interval(returns, kind):
    rows = len(returns)
    found = TrajectoryWiseImportanceSampling().estimate_interval(
        step_per_trajectory=1,
        action=numpy.zeros(rows, int),
        reward=numpy.asarray(returns, float),
        pscore=numpy.full(rows, 0.5),
        evaluation_policy_action_dist=numpy.full((rows, 2), 0.5),
        alpha=0.05,
        ci=kind,
    )
    return [float(found[f"95.0% CI ({end})"]) for end in ("lower", "upper")]


for episodes in (25, 2500):
    low, high = interval(numpy.ones(episodes), "hoeffding")
    print(episodes, round(high - low, 1))
print([round(end, 1) for end in interval(-numpy.ones(25), "hoeffding")])
samples = numpy.random.RandomState(0).normal(size=(2000, 10))
print(round(float(numpy.mean([low < 0 < high for low, high in (interval(x, "ttest") for x in samples)])), 2))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "25 13.6
2500 135.8
[5.8, -7.8]
0.9" ]
