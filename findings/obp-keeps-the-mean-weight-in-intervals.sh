#!/usr/bin/env bash
# Open Bandit Pipeline (obp) 0.4.1. `estimate_interval` of the self-normalized estimator divides each decision's weight by
# the mean weight of the whole sample, once, and bootstraps the mean of these contributions, as if the mean weight were
# known: the errors of numerator and denominator, which cancel in the estimate, no longer do in its interval. So the
# interval is about as wide as the one of plain importance weighting, and grows when a constant is added to the rewards,
# which can only shift it. Where every reward is 1 the estimate is 1 on any sample and on any resample: no width at all.
# Seen, the estimate and its interval at a level of 95%: self-normalized 1.0 [0.74, 1.3], and for the plain estimator, to
# compare, 1.04 [0.78, 1.36]; 1.0 [1.0, 1.0] was to be expected of the first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 obp==0.4.1 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
cat > "$folder/run.py" <<'PY'
import numpy
from obp.ope import InverseProbabilityWeighting, SelfNormalizedInverseProbabilityWeighting

decisions, actions = 100, 10
policy = numpy.full((decisions, actions, 1), 0.5 / (actions - 1))
policy[:, 0] = 0.5
log = {
    "reward": numpy.ones(decisions),
    "action": numpy.random.RandomState(0).randint(actions, size=decisions),
    "pscore": numpy.full(decisions, 1 / actions),
    "action_dist": policy,
    "position": numpy.zeros(decisions, dtype=int),
}
for estimator in (SelfNormalizedInverseProbabilityWeighting(), InverseProbabilityWeighting()):
    interval = estimator.estimate_interval(**log, n_bootstrap_samples=1000, random_state=0)
    ends = [round(float(interval[f"95.0% CI ({end})"]), 2) for end in ("lower", "upper")]
    print(estimator.estimator_name, round(float(estimator.estimate_policy_value(**log)), 2), ends)
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "snipw 1.0 [0.74, 1.3]
ipw 1.04 [0.78, 1.36]" ]
