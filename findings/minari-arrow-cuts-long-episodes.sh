#!/usr/bin/env bash
# Minari 0.5.4 with PyArrow 26.0.1. Two episodes of 40 000 and 3 steps, written with `data_format="arrow"` and read back
# with `iterate_episodes`, come back as two others, without an error: the first is cut after 32 767 steps and has no end
# flag, the second is the rest of it less the step at the cut, and the real second episode is not there at all. The
# number of episodes is right, so that nothing looks wrong. With "hdf5" the same call gives back what was written.
# Seen, (steps, first reward, last reward, ends) of each episode: hdf5 [(40000, 0, 39999, 1), (3, 100000, 100002, 1)],
# arrow [(32767, 0, 32766, 0), (7232, 32768, 39999, 1)].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "minari[arrow,hdf5]==0.5.4" pyarrow==26.0.1 gymnasium==1.4.0 numpy==2.4.6 pillow
cat > "$folder/run.py" <<'PY'
import gymnasium
import minari
import numpy
from minari.data_collector import EpisodeBuffer


def episode(steps, start):
    states = numpy.arange(start, start + steps + 1, dtype=numpy.float32).reshape(-1, 1)
    return EpisodeBuffer(
        observations=states,
        actions=numpy.zeros((steps, 1), numpy.float32),
        rewards=[float(x) for x in states[:-1, 0]],
        terminations=[step == steps - 1 for step in range(steps)],
        truncations=[False] * steps,
    )


space = gymnasium.spaces.Box(-numpy.inf, numpy.inf, (1,), numpy.float32)
for kind in ("hdf5", "arrow"):
    episodes = [episode(40_000, 0), episode(3, 100_000)]
    spaces = {"observation_space": space, "action_space": space}
    minari.create_dataset_from_buffers(f"check/{kind}-v0", buffer=episodes, data_format=kind, **spaces)
    found = minari.load_dataset(f"check/{kind}-v0").iterate_episodes()
    rows = [(len(e.rewards), int(e.rewards[0]), int(e.rewards[-1]), int(e.terminations.sum())) for e in found]
    print(kind, rows)
PY
seen=$(MINARI_DATASETS_PATH="$folder/data" "$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "hdf5 [(40000, 0, 39999, 1), (3, 100000, 100002, 1)]
arrow [(32767, 0, 32766, 0), (7232, 32768, 39999, 1)]" ]
