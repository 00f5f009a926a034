#!/usr/bin/env bash
# RLlib 2.58.0. `EpisodeReplayBuffer` gives rows of n steps, cut from episodes. A cut that would reach over the end of an episode
# has fewer rewards, but is no longer terminated: of the n steps that come to the end, only one row takes no value behind it,
# and the others take that of the terminal state. `PrioritizedEpisodeReplayBuffer` leaves those rows out, so that the last
# n - 1 actions of an episode are never learned. Offline data are read through the former, without the configured discount:
# rewards are discounted by 0.99.
# Seen, for four steps that pay 1 and end, n = 3 and a discount of 0.5, the rewards and ends of the rows: 1.75 False, 1.75 True,
# 1.5 False and 1.0 False by the first; the first two of these by the second; with CQL offline 2.97, 2.97, 1.99 and 1.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet torch==2.13.0 "ray[rllib]==2.58.0" msgpack-numpy==0.4.8 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import msgpack
import msgpack_numpy
import numpy
from gymnasium.spaces import Box
from ray.rllib.algorithms.cql import CQLConfig
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.offline.offline_prelearner import OfflinePreLearner
from ray.rllib.utils.replay_buffers import EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer

space = Box(-10, 10, (1,), numpy.float32)


def episode(number):
    made = SingleAgentEpisode(
        id_=str(number),
        observation_space=space,
        action_space=space,
        observations=[numpy.full(1, state, numpy.float32) for state in range(5)],
        actions=[numpy.zeros(1, numpy.float32)] * 4,
        rewards=[1.0] * 4,
        terminated=True,
        len_lookback_buffer=0,
    )
    made.to_numpy()
    return made


def show(name, rows):
    print("rows", name, [(round(reward, 2), end) for _, reward, end in sorted(set(rows))])


for kind in (EpisodeReplayBuffer, PrioritizedEpisodeReplayBuffer):
    buffer = kind(capacity=1000)
    buffer.add([episode(number) for number in range(20)])
    cuts = buffer.sample(num_items=400, n_step=3, gamma=0.5, sample_episodes=True)
    rows = [(float(cut.get_observations(0)[0]), float(cut.get_rewards(0)), bool(cut.is_terminated)) for cut in cuts]
    show(kind.__name__, rows)

config = CQLConfig().environment(observation_space=space, action_space=space)
config = config.training(gamma=0.5, n_step=3, train_batch_size_per_learner=64)
config = config.offline_data(input_=["episodes"], input_read_episodes=True)
config = config.rl_module(rl_module_spec=config.get_multi_rl_module_spec(spaces={"default_policy": (space, space)}))
episodes = [msgpack.packb(episode(number).get_state(), default=msgpack_numpy.encode) for number in range(20)]
batch = OfflinePreLearner(config=config, spaces=(space, space))({"item": episodes})
columns = (batch[f"default_policy/{key}"].flatten().tolist() for key in ("obs", "rewards", "terminateds"))
show("CQL", zip(*columns, strict=True))
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep '^rows')
echo "$seen"
[ "$seen" = "rows EpisodeReplayBuffer [(1.75, False), (1.75, True), (1.5, False), (1.0, False)]
rows PrioritizedEpisodeReplayBuffer [(1.75, False), (1.75, True)]
rows CQL [(2.97, False), (2.97, True), (1.99, False), (1.0, False)]" ]
