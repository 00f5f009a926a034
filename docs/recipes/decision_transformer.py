"""Decision Transformer: imitate what a high return followed, with a sequence model that is then asked for one.

Chen et al., arXiv:2106.01345. No value is learned and nothing bootstraps. Each action is predicted from the last steps
and the returns to go, what the episode still earned. Deployed, the first return to go is a wish, from which every
reward is subtracted. The data must hold what is wished for, and returns must be a matter of choice, not of luck.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from functools import partial

import torch
from common import Report, Result, arguments, minimize, one_by_one, train
from flags import count, real
from networks import Deployable, of_action
from runs import side_by_side
from task import load_task
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import Adam

from offline_losses import discounted_return, nll_loss, sequence_action_loss

UNIT = 100.0  # of scaled return, which spans so much


class DecisionTransformer(Deployable):
    """Actions `[B, T, A]`, logits of finitely many, from returns to go, states and earlier actions."""

    def __init__(
        self, observations: int, actions: int, discrete: bool, hidden: int, context: int, wish: float, most: float
    ) -> None:
        super().__init__()
        self.actions, self.size = actions if discrete else None, () if discrete else (actions,)
        self.context, self.wish, self.most = context, wish, most
        self.of_return, self.of_state = nn.Linear(1, hidden), nn.Linear(observations, hidden)
        self.of_action, self.head = nn.Linear(actions, hidden), nn.Linear(hidden, actions)
        self.position = nn.Parameter(0.02 * torch.randn(context, hidden))
        layer = nn.TransformerEncoderLayer(hidden, 2, 4 * hidden, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.register_buffer("later", torch.ones(3 * context, 3 * context, dtype=torch.bool).triu(1))
        self.begin()

    def forward(self, togo: Tensor, observation: Tensor, action: Tensor) -> Tensor:
        action = action if self.actions is None else one_hot(action, self.actions).to(observation)
        parts = self.of_return(togo.unsqueeze(-1)), self.of_state(observation), self.of_action(action)
        tokens = torch.stack([part + self.position[: togo.shape[1]] for part in parts], 2).flatten(1, 2)
        count = tokens.shape[1]
        seen = self.layers(tokens, mask=self.later[:count, :count])
        output = self.head(seen[:, 1::3])  # behind each state, before its action
        return output.tanh() if self.actions is None else output

    def begin(self) -> DecisionTransformer:
        """Forget the last episodes."""
        self.togo: list[Tensor] = []
        self.states: list[Tensor] = []
        self.taken: list[Tensor] = []
        return self

    def act(self, observation: Tensor) -> Tensor:
        self.togo = self.togo or [torch.full_like(observation[:, 0], self.wish)]
        self.states.append(observation)
        kind = observation.dtype if self.actions is None else torch.long
        unknown = torch.zeros(len(observation), *self.size, dtype=kind)
        last = [x[-self.context :] for x in (self.togo, self.states, [*self.taken, unknown.to(observation.device)])]
        output = self(*(torch.stack(x, 1) for x in last))[:, -1]
        self.taken.append(output if self.actions is None else output.argmax(-1))
        return self.taken[-1]

    def earned(self, reward: Tensor) -> None:
        self.togo.append((self.togo[-1] - reward.to(self.togo[-1]) / UNIT).clamp(max=self.most))


def main(argv: Sequence[str] | None = None, report: Report | None = None) -> list[Result]:
    parser = arguments(__doc__)
    parser.add_argument("--context", type=count, default=10, help="steps that are looked back on")
    parser.add_argument("--wish", type=real, help="the return that is asked for; the best of the data if not given")
    return one_by_one(partial(learn, report=report), side_by_side(parser.parse_args(argv)))


def learn(options: Namespace, report: Report | None) -> list[Result]:
    task = load_task(options)
    data = task.data

    # Dataset time: what the episode still earns from each step on, and where it ends.
    reward, done = data["next", "reward"], data["next", "done"]
    data["togo"] = discounted_return(reward, done, discount=1.0) / UNIT
    data["row"], ends = torch.arange(len(data), device=data.device), done.nonzero().squeeze(-1)
    data["last"] = ends[torch.searchsorted(ends, data["row"])]

    wish = task.returns.max().item() if options.wish is None else options.wish
    most = data["togo"].max().item()  # nothing is wished for that never was
    sizes = task.observation_size, task.action_size, task.discrete, options.hidden, options.context
    model = task.build(DecisionTransformer, *sizes, wish * task.scale / UNIT, most)
    optimizer = Adam(model.parameters(), options.lr, fused=True)
    ahead = torch.arange(options.context, device=data.device)

    def update(batch: TensorDict) -> dict[str, Tensor]:
        # A stretch of each episode; what lies beyond its end is padding, which comes last and is masked.
        rows = batch["row"][0].unsqueeze(-1) + ahead  # of the only run
        exists = rows <= batch["last"][0].unsqueeze(-1)
        rows = rows.clamp(max=len(data) - 1)
        action = data["action"][rows]

        output = model(data["togo"][rows], data["observation"][rows], action)
        if task.discrete:
            loss = nll_loss(of_action(output.log_softmax(-1), action), mask=exists)
        else:
            loss = sequence_action_loss(output, action, mask=exists)
        minimize(optimizer, loss)
        return {"policy_loss": loss.unsqueeze(0)}

    return train("decision transformer", task, options, update, policy=model, report=report)


if __name__ == "__main__":
    main()
