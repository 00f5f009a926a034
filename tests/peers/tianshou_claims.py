"""tianshou: functions, and updates of its algorithms with our letters in the place of their networks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from claims import Claim, Claims, Evaluate, with_torch
from torch import Tensor

INSIDE = "inside of an update of networks; read"
ONE_EPISODE = "done = torch.zeros_like(done); done[-1] = True"

CLAIMS: Claims = {
    # returns and targets
    "discounted_return: discounted_return(r, done, discount=gamma)": Claim(
        "torch.tensor(base.episode_mc_return_to_go(r.numpy(), gamma))", draw=ONE_EPISODE, by=""
    ),
    "n_step_return: n_step_return(r, next_v, terminated, done, n=n, discount=gamma)": Claim(
        "n_step(r, next_v, terminated, done, n, gamma)", by=""
    ),
    "lambda_return: generalized_advantage(r, v, next_v, terminated, done, discount=gamma, lambda_=lam)": Claim(
        "episodic(r, v, next_v, terminated, done, gamma, lam)[1]", by=""
    ),
    "linear_recurrence: linear_recurrence(delta, torch.full_like(delta, gamma * lam), cut=done)": Claim(
        "torch.tensor(base._gae(0 * r.numpy(), 0 * r.numpy(), delta.numpy(), done.numpy(), gamma, lam))", by=""
    ),
    "bellman_target: bellman_target(r, next_v, terminated, discount=gamma)": Claim(
        "n_step(r, next_v, terminated, done, 1, gamma)", by=""
    ),
    "expected_target: expected_target(r, next_q, p, terminated.logical_or(truncated), discount=gamma)": Claim(
        "crr_target(r, next_q, p, done, gamma)", by=""
    ),
    "double_q_target: double_q_target(r, next_q, next_q_target, terminated, discount=gamma)": Claim(
        "r + gamma * ~terminated * double(next_q, next_q_target)", by=""
    ),
    # ensembles, regression and distributions
    "ensemble_min: ensemble_subset_min(q, subset)": Claim(
        "redq_target(q)",
        draw="import numpy; numpy.random.seed(0); subset = torch.tensor(numpy.random.choice(E, 1, replace=False))",
        by="",
    ),
    "polyak_update_: polyak_update_(slow, fast, polyak=tau)": Claim(
        "synced(before, fast, tau)", draw="before = [x.clone() for x in slow]", turn="torch.stack(slow)", by=""
    ),
    "squared_loss: E * squared_loss(q, y)": Claim("sum(squared(each, y) for each in q)", by="q"),
    "squared_loss: squared_loss(q, y)": Claim("redq(q, y, torch.zeros(B), 0.0)[0]", by="q"),
    "squared_loss: 0.5 * squared_loss(q, y)": Claim("crr_error(q, y)", draw="q = q[0]", by="q"),
    "huber_loss: huber_loss(q, y, delta=delta)": Claim("dqn(q, y, delta)", draw="q = q[0]", by="q"),
    "quantile_huber_loss: M / N * quantile_huber_loss(theta, y, quantile=tau)": Claim(
        "quantiles(theta, y, tau)", by="theta"
    ),
    "categorical_projection: categorical_projection(p, atoms, z)": Claim("c51(p, atoms, z)", by=""),
    # conservative
    "cql_logsumexp_penalty: 10 * cql_logsumexp_penalty(q, q_data)": Claim(
        "torch.stack([discrete_cql(each, action) for each in q]).mean()",
        draw="action = torch.randint(N, (B,))",
        let="q_data = q[:, range(B), action]",
        by="q",
    ),
    # policies
    "nll_loss: squared_loss(policy_action, action)": Claim(
        'imitation("continuous", policy_action, action)', by="policy_action"
    ),
    "nll_loss: nll_loss(log_prob)": Claim(
        'imitation("discrete", logits, action)',
        draw="logits, action = torch.randn(B, N), torch.randint(N, (B,))",
        let="log_prob = logits.log_softmax(-1)[range(B), action]",
        by="logits",
    ),
    "nll_loss: w.mean() * nll_loss(log_prob)": Claim(
        "crr_policy_loss(scores, logits, action, beta)",
        draw="scores, logits, action = torch.randn(B, N), torch.randn(B, N), torch.randint(N, (B,))",
        let="log_prob = logits.log_softmax(-1)[range(B), action]\n"
        "w = crr_weights(scores[range(B), action] - (logits.softmax(-1) * scores).sum(-1), temperature=beta)",
        by="",
    ),
    "td3_bc_loss: td3_bc_loss(q, policy_action, action)": "td3_bc(q, policy_action, action)",
    "sac_policy_loss: sac_policy_loss(log_prob, ensemble_min(q), temperature=T)": "sac(log_prob, q, T)",
    "sac_policy_loss: sac_policy_loss(log_prob, ensemble_mean(q), temperature=T)": (
        "redq(q.detach(), torch.zeros(B), log_prob, T, q)[1]"
    ),
    "temperature_loss: log_T / log_T.exp() * temperature_loss(log_T, log_prob, target_entropy=-A)": Claim(
        "temperature(log_T, log_prob, A)", by=""
    ),
    "observation_statistics: ((o - mean) / (std**2 + eps).sqrt()).clamp(-10, 10)": Claim(
        "RunningMeanStd(mean, std**2, epsilon=eps).norm(o)", by=""
    ),
    "support_mask: support_mask(logits)": Claim(
        "torch.stack([bcq_discrete(logits, a) for a in range(logits.shape[-1])], -1)", by=""
    ),
}
READ = {
    "calibrated_value: calibrated_value(q - log_mu, g)": INSIDE,
    "cql_lagrange_losses: E * loss.penalty": INSIDE,
    "cql_lagrange_losses: loss.dual": INSIDE,
    "soft_value: T * math.log(N) + soft_value(q, log_density=log_mu / T, temperature=T)": INSIDE,
    "softmax_entropy: softmax_entropy(logits)": "`torch.distributions`, checked in the ordinary tests",
    "gaussian_log_prob: gaussian_log_prob(mu, std.log(), a)": "`torch.distributions`, checked in the ordinary tests",
    'quantile_loss: huber_loss(x, y, weight=(tau - (y < x).float()).abs(), reduction="none")': (
        "a part of quantile_huber_loss, checked there"
    ),
    "ensemble_min: ensemble_mix(q).amax(-1)": INSIDE,
    "ensemble_min: ensemble_mean(q)": "a part of sac_policy_loss, checked there",
    "candidate_max_value: ensemble_mix(q).amax(-1)": INSIDE,
    "crr_weights: crr_weights(a, temperature=beta)": "a part of nll_loss, checked there",
    "bellman_target: bellman_target(r, next_v, terminated.logical_or(truncated), discount=gamma)": INSIDE,
    "soft_bellman_target: soft_bellman_target(r, next_q, log_prob, terminated, temperature=T, discount=gamma)": INSIDE,
    "expected_target: expected_target(r, next_q - T * p.log(), p, terminated, discount=gamma)": INSIDE,
}


def evaluator() -> Evaluate:
    """With algorithms that have no networks."""
    import numpy as np
    from tianshou.algorithm import algorithm_base as base
    from tianshou.algorithm.imitation.discrete_bcq import DiscreteBCQPolicy
    from tianshou.algorithm.imitation.discrete_cql import DiscreteCQL
    from tianshou.algorithm.imitation.discrete_crr import DiscreteCRR
    from tianshou.algorithm.imitation.imitation_base import ImitationLearningAlgorithmMixin
    from tianshou.algorithm.imitation.td3_bc import TD3BC
    from tianshou.algorithm.modelfree.c51 import C51
    from tianshou.algorithm.modelfree.ddpg import ActorCriticOffPolicyAlgorithm
    from tianshou.algorithm.modelfree.dqn import DQN
    from tianshou.algorithm.modelfree.qrdqn import QRDQN
    from tianshou.algorithm.modelfree.redq import REDQ
    from tianshou.algorithm.modelfree.sac import SAC, AutoAlpha
    from tianshou.data import Batch
    from tianshou.utils.lagged_network import polyak_parameter_update
    from tianshou.utils.statistics import RunningMeanStd

    space = {"base": base, "RunningMeanStd": RunningMeanStd}

    class Steps(list[Any]):
        """An optimizer that keeps the losses it is given."""

        def step(self, loss: Tensor) -> None:
            self.append(loss)

        @staticmethod
        def zero_grad() -> None: ...

    def giving(x: Any) -> Any:
        return lambda *_, **__: x

    def algorithm(**given: Any) -> SimpleNamespace:
        idle = {
            "_periodically_update_lagged_network_weights": giving(None),
            "_update_lagged_network_weights": giving(None),
        }
        squared_error = ActorCriticOffPolicyAlgorithm._minimize_critic_squared_loss
        steps = {"optim": Steps(), "policy_optim": Steps(), "critic_optim": Steps(), "critic2_optim": Steps()}
        return SimpleNamespace(**{**idle, **steps, "_minimize_critic_squared_loss": squared_error, **given})

    def policy(**given: Any) -> Any:
        """Gives these for any observation."""
        answer = {"act": None, "logits": None, "log_prob": None, **given}
        return type("", (), {"__call__": giving(SimpleNamespace(**answer)), **given})()

    def buffer(r: Tensor, terminated: Tensor, done: Tensor) -> SimpleNamespace:
        ends = done.numpy()
        following = lambda index: np.where(ends[index], index, np.minimum(index + 1, len(ends) - 1))  # noqa: E731
        flags = {"terminated": terminated.numpy(), "done": ends, "truncated": ends & ~terminated.numpy()}
        return SimpleNamespace(rew=r.numpy(), next=following, unfinished_index=giving(np.array([], dtype=int)), **flags)

    def n_step(r: Tensor, next_v: Tensor, terminated: Tensor, done: Tensor, n: int, gamma: float) -> Tensor:
        index, kept = np.arange(len(r)), buffer(r, terminated, done)
        batch = Batch(obs=index)
        value = lambda _, index: next_v[index].clone()  # noqa: E731
        return base.Algorithm.compute_nstep_return(batch, kept, index, value, gamma, n).returns[:, 0]

    def episodic(
        r: Tensor, v: Tensor, next_v: Tensor, terminated: Tensor, done: Tensor, gamma: float, lam: float
    ) -> list[Tensor]:
        kept = buffer(r, terminated, done)
        found = base.Algorithm.compute_episodic_return(kept, kept, np.arange(len(r)), next_v, v, gamma, lam)
        return [torch.tensor(x) for x in found]

    def double(q: Tensor, slow: Tensor) -> Tensor:
        answers = iter([SimpleNamespace(act=q.argmax(-1).numpy(), logits=q), SimpleNamespace(logits=slow)])
        found = algorithm(
            policy=lambda *_, **__: next(answers), use_target_network=True, model_old=None, is_double=True
        )
        batch = SimpleNamespace(obs_next=np.zeros(len(q)))
        index = np.arange(len(q))
        kept = type("", (), {"__getitem__": lambda *_: batch})()
        return DQN._target_q(found, kept, index)

    def crr(
        q: Tensor, action: Tensor, logits: Tensor, r: Tensor, next_q: Tensor, next_logits: Tensor, **given: Any
    ) -> Any:
        found = algorithm(
            _target=False,
            _iter=0,
            _min_q_weight=0.0,
            _policy_improvement_mode="all",
            _ratio_upper_bound=20.0,
            critic=giving(q),
        )
        found.actor_old, found.critic_old = giving((next_logits, None)), giving(next_q)
        found.discounted_return_computation = SimpleNamespace(gamma=given.pop("gamma", 0.0))
        found.policy = SimpleNamespace(actor=giving((logits, None)))
        done = given.pop("done", torch.zeros(len(q)).bool())
        vars(found).update(given)
        batch = SimpleNamespace(obs=None, obs_next=None, act=action, rew=r, done=done)
        stats = DiscreteCRR._update_with_batch(found, batch)
        return found.optim[0], stats

    def crr_target(r: Tensor, next_q: Tensor, p: Tensor, done: Tensor, gamma: float) -> Tensor:
        """The slope of half the squared error at a value of zero is minus the target."""
        q, none = torch.zeros(len(r), 1, requires_grad=True), torch.zeros(len(r), dtype=torch.long)
        loss, _ = crr(q, none, torch.zeros(len(r), 1), r, next_q, p.log(), gamma=gamma, done=done)
        return -len(r) * torch.autograd.grad(loss, q)[0][:, 0]

    def crr_error(q: Tensor, y: Tensor) -> Tensor:
        none = torch.zeros(len(y), dtype=torch.long)
        return crr(q[:, None], none, torch.zeros(len(y), 1), y, 0 * q[:, None].detach(), 0 * q[:, None].detach())[0]

    def crr_policy_loss(q: Tensor, logits: Tensor, action: Tensor, beta: float) -> Tensor:
        zeros = torch.zeros_like(q)
        given = {"_policy_improvement_mode": "exp", "_beta": beta}
        return torch.tensor(crr(q, action, logits, zeros[:, 0], zeros, zeros, **given)[1].actor_loss)

    def redq_target(q: Tensor) -> Tensor:
        np.random.seed(0)
        found = algorithm(ensemble_size=len(q), subset_size=1, target_mode="min", critic_old=giving(q))
        found.alpha = SimpleNamespace(value=0.0)
        return REDQ._target_q_compute_value(found, SimpleNamespace(obs=None), SimpleNamespace(act=None, log_prob=0.0))

    def redq(
        q: Tensor, y: Tensor, log_prob: Tensor, temperature: float, q_policy: Tensor | None = None
    ) -> list[Tensor]:
        answers = iter([q, q if q_policy is None else q_policy])
        found = algorithm(critic=lambda *_: next(answers), critic_gradient_step=0, actor_delay=1)
        found.policy, found.alpha = policy(log_prob=log_prob), SimpleNamespace(value=temperature, update=giving(0.0))
        REDQ._update_with_batch(found, SimpleNamespace(obs=None, act=None, returns=y))
        return [found.critic_optim[0], found.policy_optim[0]]

    def synced(slow: list[Tensor], fast: list[Tensor], tau: float) -> Tensor:
        one, other = (torch.nn.ParameterList([x.clone() for x in each]) for each in (slow, fast))
        polyak_parameter_update(one, other, tau)
        return torch.stack(list(one)).detach()

    def squared(q: Tensor, y: Tensor) -> Tensor:
        batch = SimpleNamespace(obs=None, act=None, returns=y)
        return ActorCriticOffPolicyAlgorithm._minimize_critic_squared_loss(batch, giving(q), Steps())[1]

    def dqn(q: Tensor, y: Tensor, delta: float) -> Tensor:
        found = algorithm(policy=policy(logits=q[:, None]), huber_loss_delta=delta)
        DQN._update_with_batch(found, Batch(returns=y, act=np.zeros(len(y), dtype=int)))
        return found.optim[0]

    def quantiles(theta: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        found = algorithm(policy=policy(logits=theta[:, None]), tau_hat=tau[None, :, None])
        QRDQN._update_with_batch(found, Batch(returns=y, act=np.zeros(len(y), dtype=int)))
        return found.optim[0]

    def c51(p: Tensor, atoms: Tensor, z: Tensor) -> Tensor:
        found = algorithm(use_target_network=False, delta_z=float(z[1] - z[0]))
        found.policy = policy(act=np.zeros(len(p), dtype=int), logits=p[:, None], support=z, v_min=-2.0, v_max=2.0)
        return C51._target_dist(found, Batch(obs_next=np.zeros(len(p)), returns=atoms))

    def discrete_cql(q: Tensor, action: Tensor) -> Tensor:
        """One quantile, already at its target."""
        chosen = policy(logits=q[..., None], compute_q_value=lambda _, each, mask: each[..., 0])
        found = algorithm(policy=chosen, tau_hat=torch.full((1, 1, 1), 0.5), min_q_weight=10.0)
        DiscreteCQL._update_with_batch(found, Batch(returns=q.detach()[range(len(q)), action, None], act=action))
        return found.optim[0]

    def imitation(kind: str, output: Tensor, action: Tensor) -> Tensor:
        steps, found = Steps(), policy(act=output, logits=output, action_type=kind)
        ImitationLearningAlgorithmMixin._imitation_update(None, SimpleNamespace(act=action), found, steps)
        return steps[0]

    def twins(kind: Any, q: Tensor, batch: SimpleNamespace, **given: Any) -> Tensor:
        """The loss of the policy; the critics are not looked at."""
        found = algorithm(critic=giving(q[0]), critic2=giving(q[-1]), **given)
        found._minimize_critic_squared_loss = giving((torch.zeros(()), torch.zeros(())))
        kind._update_with_batch(found, batch)
        return found.policy_optim[0]

    def td3_bc(q: Tensor, policy_action: Tensor, action: Tensor) -> Tensor:
        batch = SimpleNamespace(obs=None, act=action)
        return twins(TD3BC, q[None], batch, policy=policy(act=policy_action), alpha=2.5, _cnt=0, update_actor_freq=1)

    def sac(log_prob: Tensor, q: Tensor, temperature: float) -> Tensor:
        alpha = SimpleNamespace(value=temperature, update=giving(0.0))
        return twins(SAC, q, SimpleNamespace(obs=None, act=None), policy=policy(log_prob=log_prob), alpha=alpha)

    def temperature(log_temp: Tensor, log_prob: Tensor, size: int) -> Tensor:
        leaf = log_temp.clone().requires_grad_()
        found = SimpleNamespace(_target_entropy=-size, _log_alpha=leaf, _optim=Steps())
        found._optim.step = giving(None)
        return torch.tensor(AutoAlpha.update(found, -log_prob))

    def bcq_discrete(logits: Tensor, action: int) -> Tensor:
        """An action is kept if it is chosen where it is the best."""
        values = torch.nn.functional.one_hot(torch.tensor(action), logits.shape[-1]).double().expand(logits.shape)
        found = SimpleNamespace(model=giving((values, None)), imitator=giving((logits, None)))
        found._log_tau = float(np.log(0.3))
        return DiscreteBCQPolicy.forward(found, SimpleNamespace(obs=None, info=None)).act == action

    return with_torch({**space, **locals()})
