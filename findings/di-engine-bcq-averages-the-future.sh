#!/usr/bin/env bash
# DI-engine 0.5.3. `BCQPolicy` turns the values of the next states into a column before the target is formed, while the
# critic's values, the rewards and the ends are rows. The target becomes a square: each row's value is regressed on its own
# reward and the next values of the whole batch, and learns their mean. The last reward of an episode is learned; whatever
# lies further ahead is the same for all actions. PyTorch warns of the shapes once, and the losses fall.
# Seen, for two actions that lead from state 0 to the states -1 and 1, which pay 0 and 10 and end: those states are worth 0
# and 10, and the actions 5 each, where 0 and 9.9 is what they earn with the discount of 0.99 (all rounded to whole numbers).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
needs="easydict==1.14 einops==0.8.2 enum-tools==0.13.0 flask==2.0.3 gym==0.25.1 gymnasium==1.4.0 h5py==3.16.0 hbutils==0.14.2"
needs="$needs numpy==1.26.4 pyyaml==6.0.4 requests==2.34.2 rich==15.0.0 tabulate==0.10.0 tensorboardX==2.6.5 treevalue==1.5.0"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 $needs urlobject==3.0.0 werkzeug==2.0.3
"$folder/venv/bin/pip" install --quiet --no-deps DI-engine==0.5.3 DI-toolkit==0.3.0 DI-treetensor==0.5.0
cat > "$folder/run.py" <<'PY'
import torch
from ding.policy.bcq import BCQPolicy

torch.manual_seed(0)
config = BCQPolicy.default_config()
config.model.update(obs_shape=1, action_shape=1, vae_hidden_dims=[32, 32])
config.model.update(actor_head_hidden_size=[32], critic_head_hidden_size=[32])
config.learn.update(learning_rate_q=0.003, target_theta=0.1)
policy = BCQPolicy(config, enable_field=["learn"])
rows = []
for number in (-1.0, 1.0) * 16:
    there, pays = torch.tensor([number]), torch.tensor(max(10 * number, 0.0))
    rows.append({"obs": 0 * there, "action": there, "reward": 0 * pays, "next_obs": there, "done": False})
    rows.append({"obs": there, "action": there, "reward": pays, "next_obs": there, "done": True})
for _ in range(1000):
    policy._forward_learn(rows)
ask = torch.tensor([[0.0, -1.0], [0.0, 1.0], [-1.0, -1.0], [1.0, 1.0]])
with torch.no_grad():
    values = policy._model.compute_critic({"obs": ask[:, :1], "action": ask[:, 1:]})["q_value"]
for value in values:
    print([round(x) for x in value.tolist()])
PY
seen=$("$folder/venv/bin/python" "$folder/run.py" 2> /dev/null | grep '^\[[0-9]')
echo "$seen"
[ "$seen" = "[5, 5, 0, 10]
[5, 5, 0, 10]" ]
