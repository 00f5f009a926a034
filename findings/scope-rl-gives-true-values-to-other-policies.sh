#!/usr/bin/env bash
# SCOPE-RL 0.2.1. `select_by_policy_value(..., return_true_values=True)` ranks policies by their estimates and puts beside
# each its true value. Without `return_metrics=True` it takes the policies in the order in which the user named them, but
# their true values in the order of size: unless the user named them from the best to the worst, true values stand beside
# other policies, and true ranks are wrong with them. With the metrics both are in one order, so that asking for more
# changes what was there. The selections by lower bound, by quartile and by CVaR have the same lines.
# Seen, three policies with estimates that are exactly true, named worst, best, middle; as (policy, estimate, true value):
# without metrics ("best", 3, 2), ("middle", 2, 1), ("worst", 1, 3), with them ("best", 3, 3), ("middle", 2, 2),
# ("worst", 1, 1).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 scope-rl==0.2.1 d3rlpy==2.8.1 numpy==2.4.6 scikit-learn==1.9.1
cat > "$folder/run.py" <<'PY'
import numpy
from scope_rl.ope import OffPolicyEvaluation, OffPolicySelection
from scope_rl.ope.discrete import DirectMethod

episodes, steps = 20, 2
rows = episodes * steps
ends = numpy.tile([0, 1], episodes)
log = {"n_trajectories": episodes, "step_per_trajectory": steps, "behavior_policy": "logging", "dataset_id": 0}
log |= {"action_type": "discrete", "n_actions": 2, "action_dim": None, "state_dim": 1, "state": numpy.zeros((rows, 1))}
log |= {"action": numpy.zeros(rows, int), "reward": numpy.ones(rows), "pscore": numpy.full(rows, 0.5)}
log |= {"done": ends, "terminal": ends}


def policy(value):
    return {
        "evaluation_policy_action": None,
        "evaluation_policy_action_dist": numpy.full((rows, 2), 0.5),
        "state_action_value_prediction": numpy.full((rows, 2), value),
        "initial_state_value_prediction": numpy.full(episodes, value),
        "state_action_marginal_importance_weight": None,
        "state_marginal_importance_weight": None,
        "on_policy_policy_value": numpy.full(episodes, value),
        "gamma": 1.0,
        "behavior_policy": "logging",
        "evaluation_policy": "candidate",
        "dataset_id": 0,
    }


candidates = {"worst": policy(1.0), "best": policy(3.0), "middle": policy(2.0)}
selection = OffPolicySelection(ope=OffPolicyEvaluation(logged_dataset=log, ope_estimators=[DirectMethod()]))
for metrics in (False, True):
    found = selection.select_by_policy_value(candidates, return_true_values=True, return_metrics=metrics)["dm"]
    values = [[int(x) for x in found[key]] for key in ("estimated_policy_value", "true_policy_value")]
    print(metrics, list(zip(found["estimated_ranking"], *values)))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep best)
echo "$seen"
[ "$seen" = "False [('best', 3, 2), ('middle', 2, 1), ('worst', 1, 3)]
True [('best', 3, 3), ('middle', 2, 2), ('worst', 1, 1)]" ]
