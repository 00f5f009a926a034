"""Implicit language Q-learning: values of tokens, learned offline, on a task whose best return is known.

Snell et al., arXiv:2206.11871. A prompt asks for an answer of two to four tokens out of 32 768. In each place one token
earns a share of 1 for certain, and one that the data prefer earns four shares, but only once in twenty times; nothing
is paid before the last token. The best answers earn 1 on average; the luckiest of the data are not the best.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy

import torch
from flags import count, from_zero
from runs import Seeds, joined, run_of, side_by_side
from summary import show_scores
from torch import Tensor, nn
from torch.func import functional_call, vmap

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


class OfRun(nn.Module):
    """A loss of networks as a module, which is called with the parameters of each run."""

    def __init__(self, loss: Callable[..., Tensor], *networks: Network) -> None:
        super().__init__()
        self.loss, self.networks = loss, nn.ModuleList(networks)

    def forward(self, *batch: Tensor) -> Tensor:
        return self.loss(*self.networks, *batch)


def train(seeds: Seeds, steps: int, loss: Callable[..., Tensor], data: list[Tensor], *heads: str) -> Network:
    """The networks of all runs as one, with parameters [R, ...] for data [R, N, .]; heads of Q have slow copies."""
    warnings.filterwarnings("ignore", "There is a performance drop")  # attention goes from run to run
    network = joined(seeds.each(Network, *heads), torch.stack)
    slow = [deepcopy(network).requires_grad_(False)] if heads else []
    of_run, run = OfRun(loss, network, *slow), torch.arange(len(data[0])).unsqueeze(1)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2, fused=True)
    for _ in range(steps):
        rows = torch.stack(seeds.each(torch.randint, data[0].shape[1], (64,)))
        batch = tuple(x[run, rows] for x in data)
        optimizer.zero_grad()
        losses = vmap(lambda own, batch: functional_call(of_run, own, batch))(dict(of_run.named_parameters()), batch)
        losses.sum().backward()
        for copy in slow:
            ol.polyak_update_(copy, network, polyak=0.1)
        optimizer.step()
    return network


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


def ilql_loss(model: Network, slow: Network, tokens: Tensor, reward: Tensor, end: Tensor, mask: Tensor) -> Tensor:
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
    return value_loss + critic_loss + 0.003 * penalty + 0.03 * policy_loss


def alone(network: Network, run: int) -> Network:
    """The network of one run."""
    network = run_of(network, run)
    for parameter in network.parameters():
        parameter.data = parameter.data[0]
    return network


def scores(*networks: Network) -> Iterator[dict[str, float]]:
    """What the policies of each run earn."""
    for run in range(len(networks[0].place)):
        behavior, filtered, network = (alone(each, run) for each in networks)

        def perturbed(tokens: Tensor, network: Network = network, behavior: Network = behavior) -> Tensor:
            state = network(tokens)[:, -1]
            q = torch.minimum(network.heads["q1"](state), network.heads["q2"](state))
            return behavior.policy(tokens) + (q - network.value(state)) / 0.05

        policies = {"imitation": behavior.policy, "filtered imitation": filtered.policy}
        policies |= {"weighted imitation": network.policy, "perturbed logits": perturbed}
        yield {name: score(logits) for name, logits in policies.items()}


def main(argv: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Every run has a seed of its own for its data, its networks and its batches."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=count, default=400, help="number of updates of each network")
    parser.add_argument("--seed", type=from_zero, default=0, help="of the first run")
    parser.add_argument("--seeds", type=count, default=1, help="number of runs side by side")
    parser.set_defaults(device="cpu")
    options = side_by_side(parser.parse_args(argv))
    seeds = Seeds(options)
    data = [torch.stack(parts) for parts in zip(*seeds.each(dataset, 5000), strict=True)]
    tokens, reward, end, mask = data
    each = zip(reward, end, mask, strict=True)
    best = torch.stack([ol.return_filter(r[m], e[m], fraction=0.2)[e[m]].nonzero().squeeze(1) for r, e, m in each])
    run = torch.arange(len(best)).unsqueeze(1)
    behavior = train(seeds, options.steps, imitation_loss, [tokens, mask])
    filtered = train(seeds, options.steps, imitation_loss, [tokens[run, best], mask[run, best]])
    network = train(seeds, options.steps, ilql_loss, data, "q1", "q2")
    earned = seeds.each(next, scores(behavior, filtered, network))
    results = [{"data": float(r.sum(1).mean()), **own} for r, own in zip(reward, earned, strict=True)]
    show_scores("ilql", options.runs, results)
    return results


if __name__ == "__main__":
    main()
