#!/usr/bin/env bash
# SCOPE-RL 0.2.1. A doubly robust estimator that is given exact values returns the exact value whatever the weights are.
# Three of those with marginal weights do not. They put the zero that stands for the value after the last step before the
# last value (`np.insert` at -1) and not behind it: the last step but one loses its successor, and the last one takes
# its own value for the next. `StateMarginalSNDR` also starts from the values after that shift, and so from the second
# state. `DoubleReinforcementLearning` accepts `gamma` and does not read it: rewards count whole, whatever the discount.
# Seen, for four steps of reward 1 and a discount of 0.9, worth 1 + 0.9 + 0.81 + 0.729 = 3.439, with exact values and weights
# of one: DR 3.439, StateMarginalDR and StateActionMarginalDR 3.366, StateMarginalSNDR 2.637, DRL 4.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 scope-rl==0.2.1 d3rlpy==2.8.1 numpy==2.4.6 scikit-learn==1.9.1
cat > "$folder/run.py" <<'PY'
import numpy
from scope_rl.ope import discrete

episodes, steps, discount = 8, 4, 0.9
rows = episodes * steps
values = numpy.cumsum(discount ** numpy.arange(steps))[::-1]
log = {
    "step_per_trajectory": steps,
    "action": numpy.zeros(rows, int),
    "reward": numpy.ones(rows),
    "pscore": numpy.full(rows, 0.5),
    "evaluation_policy_action_dist": numpy.full((rows, 2), 0.5),
    "state_action_value_prediction": numpy.tile(values, episodes)[:, None].repeat(2, axis=1),
    "initial_state_value_prediction": numpy.full(episodes, values[0]),
    "state_marginal_importance_weight": numpy.ones(rows),
    "state_action_marginal_importance_weight": numpy.ones(rows),
    "n_step_pdis": 1,
    "gamma": discount,
}
names = "DoublyRobust StateMarginalDR StateActionMarginalDR StateMarginalSNDR DoubleReinforcementLearning"
for name in names.split():
    print(name, round(float(getattr(discrete, name)().estimate_policy_value(**log)), 3))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "DoublyRobust 3.439
StateMarginalDR 3.366
StateActionMarginalDR 3.366
StateMarginalSNDR 2.637
DoubleReinforcementLearning 4.0" ]
