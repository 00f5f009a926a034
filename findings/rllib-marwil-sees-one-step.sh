#!/usr/bin/env bash
# RLlib 2.58.0. MARWIL weights actions by the discounted returns that the data got, less a value; its λ is 1 and it asks for whole
# episodes. But the learner's data are single steps that are drawn from those episodes, and the returns are worked out behind
# that: each is the reward of one step plus the discounted value of the next state, by the module that the reader holds. λ has
# no effect, and a reward reaches the step before it only by way of that value.
# Seen, for episodes of four steps of which the last pays 10, with a discount of 0.5 and values of zero, the value targets of the
# steps: 0.0, 0.0, 0.0 and 10.0, where the returns are 1.25, 2.5, 5.0 and 10.0.
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
from gymnasium.spaces import Box, Discrete
from ray.rllib.algorithms.marwil import MARWILConfig
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.offline.offline_prelearner import OfflinePreLearner

spaces = Box(-10, 10, (1,), numpy.float32), Discrete(2)
config = MARWILConfig().environment(observation_space=spaces[0], action_space=spaces[1])
config = config.training(gamma=0.5, beta=1.0, train_batch_size_per_learner=64)
config = config.offline_data(input_=["episodes"], input_read_episodes=True)
config = config.rl_module(rl_module_spec=config.get_multi_rl_module_spec(spaces={"default_policy": spaces}))
reader = OfflinePreLearner(config=config, spaces=spaces)
for parameter in reader._module["default_policy"].parameters():
    parameter.data.zero_()
rows = []
for number in range(20):
    episode = SingleAgentEpisode(
        id_=str(number),
        observation_space=spaces[0],
        action_space=spaces[1],
        observations=[numpy.full(1, state, numpy.float32) for state in range(5)],
        actions=[0, 1, 0, 1],
        rewards=[0.0, 0.0, 0.0, 10.0],
        terminated=True,
        len_lookback_buffer=0,
    )
    episode.to_numpy()
    rows.append(msgpack.packb(episode.get_state(), default=msgpack_numpy.encode))
batch = {key.split("/")[1]: column for key, column in reader({"item": rows}).items()}
print("lambda", config.lambda_)
for state in range(4):
    chosen = (batch["obs"].flatten() == state) & batch["loss_mask"].bool()
    print("state", state, batch["value_targets"][chosen].unique().tolist())
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep -E '^(lambda|state)')
echo "$seen"
[ "$seen" = "lambda 1.0
state 0 [0.0]
state 1 [0.0]
state 2 [0.0]
state 3 [10.0]" ]
