#!/usr/bin/env bash
# robomimic 0.3.0 with NumPy 1.26.4. `convert_d4rl.py` never looks at the last row of a D4RL file, so that it does not see
# the flag which ends the last episode: it leaves the episode out, and says that it had no truncation. In what it writes a
# time limit is `dones` 1 as a fall is, and the last `next_obs` of each episode is its last `obs` once more, although D4RL
# says which of the two it was: a learner takes every cut for a terminal state. (The script reads D4RL through a package
# that no longer installs: a module of that name stands here, with three episodes of three steps in D4RL's form, of which
# the first ends in a fall and the others at the time limit.)
# Seen: "Excluding 2 samples at end of file due to no trajectory truncation.", {'demo_0': [0, 0, 1], 'demo_1': [0, 0, 1]}
# for the flags of three episodes, and [5.0] [5.0], the last state of the second and the state said to follow it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==1.26.4 h5py==3.16.0 gym==0.26.2 tqdm termcolor
"$folder/venv/bin/pip" install --quiet --no-deps robomimic==0.3.0
mkdir -p "$folder/beside" "$folder/data/d4rl"
cat > "$folder/beside/d4rl.py" <<'PY'
import gym
import numpy


class ThreeEpisodes(gym.Env):
    observation_space = action_space = gym.spaces.Box(-10.0, 10.0, (1,), numpy.float32)

    def get_dataset(self):
        return {
            "observations": numpy.arange(9, dtype=numpy.float32)[:, None],
            "actions": numpy.zeros((9, 1), numpy.float32),
            "rewards": numpy.ones(9, numpy.float32),
            "terminals": numpy.isin(numpy.arange(9), [2]),
            "timeouts": numpy.isin(numpy.arange(9), [5, 8]),
        }


def set_dataset_path(path):
    pass


gym.register("three-v0", entry_point=ThreeEpisodes, disable_env_checker=True)
PY
cat > "$folder/run.py" <<'PY'
import sys

import h5py

with h5py.File(sys.argv[1]) as file:
    demos = file["data"]
    print({name: demos[name]["dones"][:].tolist() for name in demos})
    first = demos["demo_1"]
    print(first["obs/flat"][-1].tolist(), first["next_obs/flat"][-1].tolist())
PY
export PYTHONPATH="$folder/beside"
said=$("$folder/venv/bin/python" -m robomimic.scripts.conversion.convert_d4rl --env three-v0 --folder "$folder/data" 2> /dev/null)
demos=$("$folder/venv/bin/python" "$folder/run.py" "$folder/data/d4rl/converted/three_v0.hdf5")
seen=$(grep Excluding <<< "$said"; echo "$demos")
echo "$seen"
[ "$seen" = "Excluding 2 samples at end of file due to no trajectory truncation.
{'demo_0': [0, 0, 1], 'demo_1': [0, 0, 1]}
[5.0] [5.0]" ]
