#!/usr/bin/env bash
# d3rlpy 2.8.1. The evaluators by which policies are chosen offline read each episode in windows of 1024 steps, and
# `InitialStateValueEstimationEvaluator` takes the first state of every window for an initial state: of an episode of 3000
# steps it averages the values of steps 0, 1024 and 2048. `TDErrorEvaluator` multiplies the next value by the discount
# once, however many steps lie between the two states: with `MultiStepTransitionPicker`, whose rewards are discounted and
# whose batches know the interval, values that are exactly right have an error.
# Seen, for values that are the number of the step: 1024.0 where the initial state's is 0.0. For rewards of 1 without an
# end, discounted by 0.9 and so worth 10 everywhere, the error with one step and with three: 0.0 and 2.92; the second is
# (2.71 + 0.9 * 10 - 10) squared, where 2.71 + 0.729 * 10 - 10 is zero.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 d3rlpy==2.8.1 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import numpy
from d3rlpy.dataset import BasicTransitionPicker, MDPDataset, MultiStepTransitionPicker
from d3rlpy.metrics import InitialStateValueEstimationEvaluator, TDErrorEvaluator


class Known:
    gamma, reward_scaler = 0.9, None

    def __init__(self, value):
        self.predict_value = lambda states, actions: value(states[:, 0])

    def predict(self, states):
        return numpy.zeros((len(states), 1), numpy.float32)


steps = 3000
numbers = numpy.arange(steps, dtype=numpy.float32)[:, None]


def dataset(picker):
    ends = numpy.zeros(steps)
    ends[-1] = 1
    rewards, actions = numpy.ones((steps, 1), numpy.float32), numpy.zeros((steps, 1), numpy.float32)
    return MDPDataset(numbers, actions, rewards, numpy.zeros(steps), timeouts=ends, transition_picker=picker)


one, three = dataset(BasicTransitionPicker()), dataset(MultiStepTransitionPicker(n_steps=3, gamma=0.9))
print(InitialStateValueEstimationEvaluator()(Known(lambda numbers: numbers), one))
exact = Known(lambda numbers: numpy.full(len(numbers), 10.0))
episodes = [[round(TDErrorEvaluator()(exact, data), 2) for data in (one, three)]]
print(*episodes)
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep -E '^[0-9[]')
echo "$seen"
[ "$seen" = "1024.0
[0.0, 2.92]" ]
