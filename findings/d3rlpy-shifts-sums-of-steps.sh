#!/usr/bin/env bash
# d3rlpy 2.8.1. With `MultiStepTransitionPicker` a transition's reward is the sum of n steps, and the reward scaler is put on
# that sum. A scaler that shifts, as `ConstantShiftRewardScaler` for "reward - 1" and `StandardRewardScaler`, shifts it once,
# however many steps there are in it: a cost for each step becomes one for each n. `ReturnBasedRewardScaler` adds the sums up
# to an episode's return, which then counts each reward up to n times.
# Seen, undiscounted values by DQN of an episode of three steps that pays nothing, shifted by -1: [-3.0, -2.0, -1.0] with
# n = 1, and [-1.0, -1.0, -1.0] with n = 3, where the way to the end is no longer seen; the return of an episode that pays 1 at
# each step is 3.0 with n = 1 and 6.0 with n = 3.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 d3rlpy==2.8.1 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import d3rlpy
import numpy
from d3rlpy.algos import DQNConfig
from d3rlpy.dataset import BasicTransitionPicker, Episode, MultiStepTransitionPicker, create_infinite_replay_buffer
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.preprocessing import ConstantShiftRewardScaler, ReturnBasedRewardScaler

states, actions = numpy.eye(3, dtype=numpy.float32), numpy.array([[0], [0], [0]])
for picker in (BasicTransitionPicker(), MultiStepTransitionPicker(n_steps=3, gamma=1.0)):
    d3rlpy.seed(0)
    nothing, ones = (Episode(states, actions, numpy.full((3, 1), pays, numpy.float32), True) for pays in (0, 1))
    data = create_infinite_replay_buffer([nothing], transition_picker=picker)
    config = DQNConfig(gamma=1.0, learning_rate=0.01, target_update_interval=10)
    config.reward_scaler = ConstantShiftRewardScaler(-1.0)
    algorithm = config.create(device=False)
    algorithm.fit(data, n_steps=600, n_steps_per_epoch=600, show_progress=False, logger_adapter=NoopAdapterFactory())
    values = algorithm.predict_value(states, actions[:, 0])
    scaler = ReturnBasedRewardScaler()
    scaler.fit_with_transition_picker([nothing, ones], picker)
    print("values", [round(float(x), 1) for x in values], "return", scaler.return_max)
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep '^values')
echo "$seen"
[ "$seen" = "values [-3.0, -2.0, -1.0] return 3.0
values [-1.0, -1.0, -1.0] return 6.0" ]
