#!/usr/bin/env bash
# d3rlpy 2.8.1 with Minari 0.5.4. `get_minari` joins the observations of all episodes, one more than there are actions in
# each, and then cuts them by the actions' lengths. So only the first episode is right: in the second every action stands
# beside the state before the one in which it was taken, in the hundredth 99 states away, which soon lies in another
# episode; and the states of one episode run on into the next. Shapes and counts are right and nothing is said.
# Seen, states and actions of three episodes whose action is its state's number: [10, 11, 12] [10, 11, 12], then
# [13, 20, 21] [20, 21, 22], then [22, 23, 30] [30, 31, 32]; equal pairs were to be expected.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 d3rlpy==2.8.1 "minari[hdf5]==0.5.4" numpy==2.4.6 pillow
cat > "$folder/run.py" <<'PY'
import gymnasium
import minari
import numpy
from d3rlpy.datasets import get_minari
from minari.data_collector import EpisodeBuffer


def episode(start):
    states = numpy.tile(numpy.arange(start, start + 4, dtype=numpy.float32)[:, None] / 100, 3)
    return EpisodeBuffer(
        observations=states,
        actions=states[:-1, :1],
        rewards=[0.0, 0.0, 0.0],
        terminations=[False, False, False],
        truncations=[False, False, True],
    )


episodes = [episode(start) for start in (10, 20, 30)]
minari.create_dataset_from_buffers("check/three-v0", buffer=episodes, env=gymnasium.make("Pendulum-v1"))
dataset, _ = get_minari("check/three-v0")
for read in dataset.episodes:
    print(*([round(100 * float(x)) for x in column[:, 0]] for column in (read.observations, read.actions)))
PY
seen=$(MINARI_DATASETS_PATH="$folder/data" "$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep '^\[[0-9]')
echo "$seen"
[ "$seen" = "[10, 11, 12] [10, 11, 12]
[13, 20, 21] [20, 21, 22]
[22, 23, 30] [30, 31, 32]" ]
