"""Implicit language Q-learning: values of tokens, learned offline, on a task whose best return is known.

Snell et al., arXiv:2206.11871. A prompt asks for an answer of two to four tokens out of 32 768. In each place one token
earns a share of 1 for certain, and one that the data prefer earns four shares, but only once in twenty times; nothing
is paid before the last token. The best answers earn 1 on average; the luckiest of the data are not the best.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

import offline_losses as ol

VOCABULARY, PROMPTS, STEPS, PRIZE, CHANCE = 32_768, 4, 4, 4.0, 0.05
LENGTH = 2 + torch.arange(PROMPTS) % 3
SURE, LUCKY, WRONG = torch.randint(VOCABULARY, (3, PROMPTS, STEPS), generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """A causal transformer: the state [B, T + 1, D] after the prompt and after each token, and heads on it."""

    def __init__(self, *heads: str, size: int = 16) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(VOCABULARY, size), nn.Parameter(0.1 * torch.randn(STEPS + 1, size))
        layer = nn.TransformerEncoderLayer(size, 2, 4 * size, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers, self.norm = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.LayerNorm(size)
        self.heads = nn.ModuleDict({name: nn.Linear(size, VOCABULARY, bias=False) for name in ("policy", *heads)})
        self.value = nn.Linear(size, 1)
        for name in heads:
            nn.init.zeros_(self.heads[name].weight)  # most tokens are never seen: what they are worth is no guess

    def forward(self, tokens: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.norm(self.layers(self.token(tokens) + self.place[: tokens.shape[1]], mask=causal, is_causal=True))

    def policy(self, tokens: Tensor) -> Tensor:
        return self.heads["policy"](self(tokens)[:, -1])

    def q_data(self, state: Tensor, action: Tensor) -> Tensor:  # [2, B, T], from one row of each critic's head
        return torch.stack([(state * self.heads[name].weight[action]).sum(-1) for name in ("q1", "q2")])


def dataset(episodes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens [B, T + 1] with the prompt first, and [B, T] rewards, ends, and whether there is a step."""
    prompt, draw = torch.randint(PROMPTS, (episodes,)), torch.rand(episodes, STEPS)
    skill = torch.where(torch.rand(episodes, 1) < 0.5, 0.1, 0.5)
    other = torch.where(torch.rand(draw.shape) < 0.7, LUCKY[prompt], WRONG[prompt])
    action = torch.where(draw < skill, SURE[prompt], other)
    left = LENGTH[prompt, None] - torch.arange(STEPS)
    earned = (action == SURE[prompt]) + PRIZE * (action == LUCKY[prompt]) * (torch.rand(draw.shape) < CHANCE)
    answer = (earned * (left > 0)).sum(1, keepdim=True) / LENGTH[prompt, None]
    return torch.cat([prompt[:, None], action], 1), torch.where(left == 1, answer, 0.0), left == 1, left > 0


def train(model: Network, loss: Callable[..., Tensor], steps: int, *data: Tensor) -> Network:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=True)
    for _ in range(steps):
        rows = torch.randint(len(data[0]), (64,))
        optimizer.zero_grad()
        loss(model, *(x[rows] for x in data)).backward()
        optimizer.step()
    return model


@torch.no_grad()
def score(logits: Callable[[Tensor], Tensor], answers: int = 400) -> float:
    """What sampled answers earn on average, without the luck."""
    tokens = (prompt := torch.arange(answers) % PROMPTS)[:, None]
    for _ in range(STEPS):
        tokens = torch.cat([tokens, logits(tokens).softmax(-1).multinomial(1)], 1)
    worth = (tokens[:, 1:] == SURE[prompt]) + PRIZE * CHANCE * (tokens[:, 1:] == LUCKY[prompt])
    return float(((worth * (torch.arange(STEPS) < LENGTH[prompt, None])).sum(1) / LENGTH[prompt]).mean())


def imitation_loss(model: Network, tokens: Tensor, mask: Tensor) -> Tensor:
    return ol.linear_nll_loss(model(tokens[:, :-1]), model.heads["policy"].weight, tokens[:, 1:], mask=mask)


def ilql_loss(slow: Network, model: Network, tokens: Tensor, reward: Tensor, end: Tensor, mask: Tensor) -> Tensor:
    policy, *critics = (head.weight for head in model.heads.values())
    seen, action = model(tokens), tokens[:, 1:]
    state, v = seen[:, :-1], model.value(seen).squeeze(-1)  # the last token is no state to act in, but has a V
    q = ol.ensemble_min(slow.q_data(slow(tokens[:, :-1]), action))
    value_loss = ol.expectile_loss(v[:, :-1], q, expectile=0.9, mask=mask)
    target = ol.bellman_target(reward, v[:, 1:], end, discount=1.0)
    critic_loss = ol.squared_loss(model.q_data(state, action), target, mask=mask)
    penalty = sum(ol.linear_cql_penalty(state, head, action, temperature=0.1, mask=mask) for head in critics)
    weight = ol.awr_weights(q - v[:, :-1], temperature=0.05, max_weight=20.0)
    policy_loss = ol.linear_nll_loss(state, policy, action, mask=mask, weight=weight)
    ol.polyak_update_(slow, model, polyak=0.1)
    return value_loss + critic_loss + 0.003 * penalty + 0.03 * policy_loss


def main(steps: int = 400) -> dict[str, float]:
    torch.manual_seed(0)
    tokens, reward, end, mask = dataset(5000)
    best = ol.return_filter(reward[mask], end[mask], fraction=0.2)[end[mask]]
    behavior, filtered = (train(Network(), imitation_loss, steps, tokens[x], mask[x]) for x in (best >= 0, best))
    slow = deepcopy(network := Network("q1", "q2")).requires_grad_(False)
    train(network, partial(ilql_loss, slow), steps, tokens, reward, end, mask)

    def perturbed(tokens: Tensor) -> Tensor:
        state = network(tokens)[:, -1]
        q = torch.minimum(network.heads["q1"](state), network.heads["q2"](state))
        return behavior.policy(tokens) + (q - network.value(state)) / 0.05

    policies = {"imitation": behavior.policy, "filtered imitation": filtered.policy}
    policies |= {"weighted imitation": network.policy, "perturbed logits": perturbed}
    result = {"data": float(reward.sum(1).mean()), **{name: score(logits) for name, logits in policies.items()}}
    print(result)
    return result


if __name__ == "__main__":
    main()
