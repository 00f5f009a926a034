#!/usr/bin/env bash
# Minari 0.5.4. `filter_episodes` and `split_dataset` give a dataset of some episodes, and everything that reads it sees
# those alone. But `combine_datasets` copies the files that lie behind each dataset, and so all of their episodes: those
# that were filtered out are in the result again, and a training part that is combined with other data brings its held-out
# episodes along. It is so with "hdf5" and with "arrow". Nothing is said, and the result's counts agree with its episodes.
# Seen, the returns of the episodes: kept [2, 3], combined with [10, 11] and read back [0, 1, 2, 3, 10, 11]; trained on
# [10], held out [11], and of a combination of the first alone [10, 11].
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

space = gymnasium.spaces.Box(-1.0, 1.0, (1,), numpy.float32)


def dataset(name, kind, returns):
    episodes = [
        EpisodeBuffer(
            observations=numpy.zeros((3, 1), numpy.float32),
            actions=numpy.zeros((2, 1), numpy.float32),
            rewards=[0.0, float(x)],
            terminations=[False, True],
            truncations=[False, False],
        )
        for x in returns
    ]
    spaces = {"observation_space": space, "action_space": space}
    return minari.create_dataset_from_buffers(f"{kind}/{name}-v0", buffer=episodes, data_format=kind, **spaces)


def returns(data):
    return [int(episode.rewards.sum()) for episode in data]


for kind in ("hdf5", "arrow"):
    mixed, good = dataset("mixed", kind, range(4)), dataset("good", kind, [10, 11])
    kept = mixed.filter_episodes(lambda episode: bool(episode.rewards.sum() >= 2))
    both = minari.combine_datasets([kept, good], f"{kind}/both-v0")
    train, held_out = minari.split_dataset(good, [1, 1], seed=0)
    alone = minari.combine_datasets([train], f"{kind}/alone-v0")
    print(kind, returns(kept), returns(both), returns(train), returns(held_out), returns(alone))
PY
seen=$(MINARI_DATASETS_PATH="$folder/data" "$folder/venv/bin/python" "$folder/run.py" 2> /dev/null)
echo "$seen"
[ "$seen" = "hdf5 [2, 3] [0, 1, 2, 3, 10, 11] [10] [11] [10, 11]
arrow [2, 3] [0, 1, 2, 3, 10, 11] [10] [11] [10, 11]" ]
