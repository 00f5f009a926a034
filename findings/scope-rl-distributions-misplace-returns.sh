#!/usr/bin/env bash
# SCOPE-RL 0.2.1. `CumulativeDistributionOPE` estimates the distribution of returns, and from it a mean and values at risk.
# Its scale is made of the returns that occur, unless one is given. A return is counted in the bin that begins with it, and
# the bin is read at its end: every return but the largest is taken for the next larger one, and where an episode either
# fails or succeeds, all have succeeded. On a scale of one's own that begins below the smallest return, importance sampling
# puts the first episode's weight at the lower end. And the discount comes in at the first reward already, in all but the
# direct method, where the documented return and the basic estimators have 1.
# Seen, for episodes of one step with the returns 1, 1, 2 and 2, on policy and with exact values, so a mean of 1.5 whatever
# the discount is: by importance sampling (tis) and doubly robust (tdr) 2.0 and 2.0; on a scale from 0 to 3 in steps of
# 0.01, which may cost 0.01, 1.26 and 1.51; and with a discount of 0.5 there 0.64 and 0.76. The basic tis and dr: 1.5 always.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 scope-rl==0.2.1 d3rlpy==2.8.1 numpy==2.4.6 scikit-learn==1.9.1
cat > "$folder/run.py" <<'PY'
import numpy
from scope_rl.ope import CumulativeDistributionOPE, OffPolicyEvaluation, discrete

episodes = 4
returns = numpy.array([1.0, 1.0, 2.0, 2.0])
log = {"n_trajectories": episodes, "step_per_trajectory": 1, "behavior_policy": "logging", "dataset_id": 0}
log |= {"action_type": "discrete", "n_actions": 2, "action_dim": None, "state_dim": 1}
log |= {"state": returns[:, None], "action": numpy.zeros(episodes, int), "reward": returns}
log |= {"pscore": numpy.full(episodes, 0.5), "done": numpy.ones(episodes), "terminal": numpy.ones(episodes)}
policy = {
    "evaluation_policy_action": None,
    "evaluation_policy_action_dist": numpy.full((episodes, 2), 0.5),
    "state_action_value_prediction": numpy.stack([returns, returns], axis=1),
    "initial_state_value_prediction": returns,
    "state_action_marginal_importance_weight": None,
    "state_marginal_importance_weight": None,
    "on_policy_policy_value": None,
    "gamma": 1.0,
    "behavior_policy": "logging",
    "evaluation_policy": "same",
    "dataset_id": 0,
}
distribution = [discrete.CumulativeDistributionTIS(), discrete.CumulativeDistributionTDR()]
basic = [discrete.TrajectoryWiseImportanceSampling(), discrete.DoublyRobust()]
wide = {"use_custom_reward_scale": True, "scale_min": 0.0, "scale_max": 3.0, "n_partition": 301}
options = {"logged_dataset": log, "disable_reward_after_done": False}
for discount, scale in ((1.0, {}), (1.0, wide), (0.5, wide)):
    policies = {"same": policy | {"gamma": discount}}
    found = CumulativeDistributionOPE(ope_estimators=distribution, **options, **scale).estimate_mean(policies)["same"]
    found |= OffPolicyEvaluation(ope_estimators=basic, **options).estimate_policy_value(policies)["same"]
    print(discount, {name: round(float(x), 2) for name, x in found.items() if x is not None})
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep cdf_)
echo "$seen"
[ "$seen" = "1.0 {'cdf_tis': 2.0, 'cdf_tdr': 2.0, 'tis': 1.5, 'dr': 1.5}
1.0 {'cdf_tis': 1.26, 'cdf_tdr': 1.51, 'tis': 1.5, 'dr': 1.5}
0.5 {'cdf_tis': 0.64, 'cdf_tdr': 0.76, 'tis': 1.5, 'dr': 1.5}" ]
