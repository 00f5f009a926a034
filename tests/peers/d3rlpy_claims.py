"""d3rlpy: functions, and methods of its algorithms with our letters in the place of their networks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from claims import Claim, Claims, Evaluate, with_torch
from torch import Tensor

SAMPLED = "inside of a method that draws actions; read"
SIX = "N = 6; q = q.amax() * torch.randn(*q.shape[:-1], N); log_mu = log_mu.amax() * torch.randn(B, N)"
UNIFORM = "log_mu = torch.cat([log_mu[:, :4], torch.full((B, 2), -A * math.log(2))], 1)"
ONE_EPISODE = "done = torch.zeros_like(done); done[-1] = True"

CLAIMS: Claims = {
    # returns and targets
    "discounted_return: discounted_return(r, done, discount=1.0)": Claim("slicer(r)", draw=ONE_EPISODE, by=""),
    "discounted_return: discounted_return(r, done, discount=gamma)": Claim(
        "torch.stack([to_go(r[t:], gamma) for t in range(len(r))])", draw=ONE_EPISODE, by=""
    ),
    "bellman_target: bellman_target(r, next_v, terminated, discount=gamma**interval)": Claim(
        "-error_slope(r, next_v, terminated, gamma**interval) / 2", by=""
    ),
    "discrete_soft_target: discrete_soft_target(r, next_q, next_logits, terminated, temperature=T, "
    "discount=gamma**interval)": Claim(
        "r + gamma**interval * ~terminated * discrete_target(next_q, next_logits, T)", by=""
    ),
    "expected_target: expected_target(r, next_q - T * p.log(), p, terminated, discount=gamma)": Claim(
        "r + gamma * ~terminated * discrete_target(next_q, p.log(), T)",
        draw="p = torch.rand(len(r), N).softmax(-1)",
        by="",
    ),
    "soft_bellman_target: soft_bellman_target(r, next_q, log_prob, terminated, temperature=T, discount=gamma)": Claim(
        "r + gamma * ~terminated * sac_target(next_q, log_prob, T)", by=""
    ),
    "soft_bellman_target: bellman_target(r, next_q, terminated, discount=gamma)": Claim(
        "r + gamma * ~terminated * deterministic_target(next_q)", by=""
    ),
    "double_q_target: double_q_target(r, ensemble_mean(next_q), ensemble_min(next_q_target), terminated, "
    "discount=gamma)": Claim("r + gamma * ~terminated * double_target(next_q, next_q_target)", by=""),
    "rebrac_target: rebrac_target(r, next_v, next_policy_action, next_action, terminated, terminated, "
    "bc_weight=beta2, discount=gamma)": Claim(
        "r + gamma * ~terminated * rebrac_target(next_v, next_policy_action, next_action, beta2)",
        draw="next_policy_action = next_policy_action.clamp(-1, 1)",
        by="",
    ),
    'candidate_max_value: candidate_max_value(q, order="min_then_max")': Claim("cql_backup(q)", by=""),
    # ensembles, regression and distributions
    "ensemble_min: ensemble_mix(q, lambda_=0.75)": 'ensembles._reduce_ensemble(q, "mix")',
    "polyak_update_: polyak_update_(slow, fast, polyak=tau)": Claim(
        "synced(before, fast, tau)", draw="before = [x.clone() for x in slow]", turn="torch.stack(slow)", by=""
    ),
    "squared_loss: E * squared_loss(q, y)": Claim("ensemble_error(q, y)", by="q"),
    'huber_loss: huber_loss(q, y, delta=beta, reduction="none")': Claim(
        "utility.compute_huber_loss(q, y, beta)", by="q"
    ),
    "expectile_loss: expectile_loss(v, q, expectile=e)": Claim("iql_value_loss(v, q, e)", by="v"),
    "quantile_huber_loss: quantile_huber_loss(theta, y, quantile=tau)": Claim(
        "utility.compute_quantile_huber_loss(theta[:, None], y[:, :, None], tau[None, None]).mean()", by="theta"
    ),
    'quantile_loss: huber_loss(x, y, weight=(tau - (y < x).float()).abs(), reduction="none")': Claim(
        "utility.compute_quantile_huber_loss(x[:, None, None], y[:, None, None], torch.full((1, 1, 1), tau))",
        by="x",
    ),
    # conservative
    "cql_logsumexp_penalty: cql_logsumexp_penalty(ensemble_mean(q), ensemble_mean(q_data))": Claim(
        "discrete_cql(q.mean(0), action)",
        draw="action = torch.randint(N, (B,))",
        let="q_data = q[:, range(B), action]",
        by="q",
    ),
    "cql_logsumexp_penalty: alpha * w * E * (math.log(N) + cql_logsumexp_penalty(q, q_data, log_density=log_mu) - "
    "tau)": Claim("alpha * conservative(q, q_data, log_mu, A, w, tau).sum()", draw=SIX, let=UNIFORM, by="q q_data"),
    "soft_value: math.log(N) + soft_value(q, log_density=log_mu)": Claim(
        "conservative(q[None], 0 * q[None, :, 0], log_mu, A, 1.0, 0.0, mean=False)",
        draw=SIX,
        let=UNIFORM,
        by="q",
    ),
    "cql_lagrange_losses: E * loss.penalty": Claim(
        "log_alpha.exp() * conservative(q, q_data, log_mu, A, w, tau).sum()",
        draw=SIX + "; log_alpha = torch.tensor(0.3)",
        let=UNIFORM + "\n"
        'gap = math.log(N) + cql_logsumexp_penalty(q, q_data, log_density=log_mu, reduction="none")\n'
        'loss = cql_lagrange_losses(gap, log_alpha, threshold=tau, penalty_weight=w, threshold_on="gap")',
        by="q q_data",
    ),
    "cql_lagrange_losses: loss.dual": Claim(
        "-log_alpha.exp() * conservative(q, q_data, log_mu, A, w, tau).detach().mean()",
        draw=SIX + "; log_alpha = torch.tensor(0.3)",
        let=UNIFORM + "\n"
        'gap = math.log(N) + cql_logsumexp_penalty(q, q_data, log_density=log_mu, reduction="none")\n'
        'loss = cql_lagrange_losses(gap, log_alpha, threshold=tau, penalty_weight=w, threshold_on="gap")',
        by="log_alpha",
    ),
    "calibrated_value: calibrated_value(q, g)": Claim("calibrated(q, g)", by="q"),
    # policies and weights
    "nll_loss: nll_loss(log_prob, weight=w)": [
        Claim("iql_policy_loss(log_prob, w)", by="log_prob"),
        Claim("crr_policy_loss(log_prob, w)", by="log_prob"),
    ],
    'nll_loss: nll_loss(log_prob, weight=w, reduction="sum")': Claim("awac_policy_loss(log_prob, w)", by="log_prob"),
    "nll_loss: squared_loss(policy_action, action)": Claim("imitation(policy_action, action)", by="policy_action"),
    "awr_weights: awr_weights(a, temperature=1 / beta)": Claim("iql_weights(a, beta)", by=""),
    "crr_weights: crr_weights(a, temperature=beta)": Claim("crr_weights(a, beta)", by=""),
    "normalize_weights: B * softmax_weights(a, temperature=lam)": Claim("awac_weights(a, lam)", by=""),
    "softmax_weights: B * softmax_weights(advantage, temperature=lam)": Claim("awac_weights(advantage, lam)", by=""),
    "td3_bc_loss: td3_bc_loss(q, policy_action, action)": "td3_bc(q, policy_action, action)",
    "td3_bc_loss: beta1 * A * td3_bc_loss(q_min, policy_action, action, q_weight=1 / (beta1 * A))": (
        "rebrac(q_min, policy_action, action, beta1)"
    ),
    "rebrac_policy_loss: rebrac_policy_loss(q, policy_action, action, bc_weight=beta1)": (
        "rebrac(q, policy_action, action, beta1)"
    ),
    "sac_policy_loss: sac_policy_loss(log_prob, ensemble_min(q), temperature=T)": "sac(log_prob, q, T)",
    "temperature_loss: temperature_loss(log_T, log_prob, target_entropy=-A)": Claim(
        "temperature(log_T, log_prob, A)", by=""
    ),
    "discrete_sac_loss: discrete_sac_loss(logits, q, temperature=T)": Claim("discrete_sac(logits, q, T)", by="logits"),
    "gaussian_log_prob: gaussian_log_prob(mu.tanh(), log_std, a)": Claim(
        "distributions.GaussianDistribution(mu.tanh(), log_std.exp(), mu).log_prob(a)[:, 0]",
        draw="log_std = log_std.clamp(-2, 2)",
    ),
    "tanh_gaussian_log_prob: tanh_gaussian_log_prob(mu, log_std, action=a)": Claim(
        "distributions.SquashedGaussianDistribution(mu, log_std.exp()).log_prob(a)[:, 0]",
        draw="log_std, a = log_std.clamp(-2, 2), a.clamp(-0.99, 0.99)",
        by="mu log_std",
    ),
    "gaussian_kl_penalty: gaussian_kl_penalty(mu, log_std, 0 * mu, 0 * mu) / A": Claim(
        "vae(mu, log_std, 0 * mu, 0 * mu, 1.0)", draw="log_std = log_std.clamp(-2, 2)", by="mu log_std"
    ),
    "elbo_loss: elbo_loss(-(u - a).square().mean(-1), mu, log_sigma, kl_weight=beta / D)": Claim(
        "vae(mu, log_sigma, u, a, beta)", draw="log_sigma = log_sigma.clamp(-2, 2)", by="u mu log_sigma"
    ),
    "sequence_action_loss: A * sequence_action_loss(a, y, mask=mask, denominator=mask.numel())": Claim(
        "decision_transformer(a, y, mask)", by="a"
    ),
    "best_of_n: best_of_n(q, candidates)": Claim("bcq(q, candidates)", by=""),
    "support_mask: support_mask(logits)": Claim(
        "torch.stack([bcq_discrete(logits, a) for a in range(logits.shape[-1])], -1)", by=""
    ),
    # filters
    "episode_return: episode_return(r, done)[done]": Claim("episode_returns(r, done)", by=""),
    "reward_scale: reward_scale(r, done, horizon=1.0)": Claim(
        "preprocessing.ReturnBasedRewardScaler(float(returns.max()), float(returns.min())).transform(torch.ones(()))",
        draw="returns = episode_return(r, done)[done]",
        by="",
    ),
    "observation_statistics: normalize_observation(o, mean, std)": Claim(
        "preprocessing.StandardObservationScaler(mean.numpy(), std.numpy()).transform(o)",
        draw="std = std.clamp(min=0.1)",
        by="",
    ),
}
READ = {
    "softmax_weights: softmax_weights(q)": SAMPLED,
    "softmax_entropy: softmax_entropy(logits)": "`torch.distributions`, checked in the ordinary tests",
    "smoothed_action: smoothed_action(action, noise, -ones, ones)": "inside of a method that draws noise; read",
    "relabel_return: relabel_return(r, next_v, terminated, done)": "a script beside the package; read at 38c34b6",
}


def evaluator() -> Evaluate:
    """With algorithms that have no networks."""
    import numpy as np
    from d3rlpy import preprocessing
    from d3rlpy.algos.qlearning.torch import (
        awac_impl,
        bcq_impl,
        cal_ql_impl,
        cql_impl,
        crr_impl,
        dqn_impl,
        iql_impl,
        rebrac_impl,
        sac_impl,
        td3_plus_bc_impl,
    )
    from d3rlpy.algos.transformer.torch.decision_transformer_impl import DecisionTransformerImpl
    from d3rlpy.dataset import Episode
    from d3rlpy.dataset.trajectory_slicers import BasicTrajectorySlicer
    from d3rlpy.models.torch import distributions, imitators
    from d3rlpy.models.torch.q_functions import ensemble_q_function as ensembles
    from d3rlpy.models.torch.q_functions import mean_q_function, utility
    from d3rlpy.torch_utility import _compute_return_to_go, soft_sync

    space = {"preprocessing": preprocessing, "distributions": distributions, "utility": utility, "ensembles": ensembles}

    def giving(x: Any) -> Any:
        return lambda *_, **__: x

    def critic(q: Tensor) -> SimpleNamespace:
        """Of any state and action."""
        return SimpleNamespace(compute_expected_q=giving(q), compute_target=giving(q))

    def algorithm(q: Any = None, log_temp: Any = None, **given: Any) -> SimpleNamespace:
        modules = {"log_temp": log_temp, "temp_optim": None, **given.pop("modules", {})}
        return SimpleNamespace(
            _modules=SimpleNamespace(**modules), _q_func_forwarder=critic(q), _targ_q_func_forwarder=critic(q), **given
        )

    class Parameter(torch.nn.Module):
        """The form in which a temperature is kept."""

        def __init__(self, x: Tensor) -> None:
            super().__init__()
            self._parameter = torch.nn.Parameter(x.reshape(1, 1))

    def batch(**given: Any) -> SimpleNamespace:
        nothing = dict.fromkeys(("observations", "actions", "next_observations", "next_actions"))
        return SimpleNamespace(**{**nothing, "device": "cpu", **given})

    def episode(r: Tensor) -> Episode:
        zeros = np.zeros((len(r), 1), dtype=np.float32)
        return Episode(zeros, zeros, r.detach().float().numpy()[:, None], terminated=True)

    def slicer(r: Tensor) -> Tensor:
        sliced = BasicTrajectorySlicer()(episode(r), len(r) - 1, len(r))
        return torch.tensor(sliced.returns_to_go[:, 0]).double()

    def to_go(r: Tensor, gamma: float) -> Tensor:
        return torch.tensor(_compute_return_to_go(gamma, r.numpy()[:, None], None)[0])

    def episode_returns(r: Tensor, done: Tensor) -> Tensor:
        ends = (done.nonzero().squeeze(-1) + 1).tolist()
        return torch.tensor([episode(part).compute_return() for part in torch.tensor_split(r, ends)[:-1]])

    def error_slope(r: Tensor, next_v: Tensor, terminated: Tensor, discount: Tensor) -> Tensor:
        """The slope of the squared error at a value of zero, which is minus twice the target."""
        value = torch.zeros(len(r), 1, requires_grad=True)
        forwarder = SimpleNamespace(_q_func=lambda *_: SimpleNamespace(q_value=value))
        columns = {"rewards": r[:, None], "target": next_v[:, None], "gamma": discount[:, None]}
        columns["terminals"] = terminated[:, None].double()
        error = mean_q_function.ContinuousMeanQFunctionForwarder.compute_error(
            forwarder, None, None, reduction="sum", **columns
        )
        return torch.autograd.grad(error, value)[0][:, 0]

    def discrete_target(q: Tensor, logits: Tensor, temperature: float) -> Tensor:
        policy = giving(torch.distributions.Categorical(logits=logits))
        log_temp = Parameter(torch.tensor(temperature).log())
        found = algorithm(q, log_temp, modules={"policy": policy})
        return sac_impl.DiscreteSACImpl.compute_target(found, batch())[:, 0]

    def drawing(module: Any, name: str, log_prob: Tensor) -> None:
        """The distribution gives these log-probabilities."""
        found = SimpleNamespace(sample_with_log_prob=giving((None, log_prob)), log_prob=giving(log_prob))
        setattr(module, name, giving(found))

    def sac_target(q: Tensor, log_prob: Tensor, temperature: float) -> Tensor:
        drawing(sac_impl, "build_squashed_gaussian_distribution", log_prob)
        found = algorithm(q, Parameter(torch.tensor(temperature).log()), modules={"policy": giving(None)})
        return sac_impl.SACImpl.compute_target(found, batch())[0]

    def deterministic_target(q: Tensor) -> Tensor:
        found = algorithm(q, modules={"policy": giving(SimpleNamespace(squashed_mu=None))}, _max_q_backup=False)
        return cql_impl.CQLImpl._compute_deterministic_target(found, batch())

    def cql_backup(q: Tensor) -> Tensor:
        cql_impl.sample_q_values_with_policy = giving((q, None))
        found = algorithm(modules={"policy": None}, _max_q_backup=True, _n_action_samples=q.shape[-1])
        return cql_impl.CQLImpl._compute_deterministic_target(found, batch())[:, 0]

    def double_target(q: Tensor, slow: Tensor) -> Tensor:
        forwarder = SimpleNamespace(compute_expected_q=lambda *_, **__: q.mean(0))
        best = dqn_impl.DQNImpl.inner_predict_best_action(SimpleNamespace(_q_func_forwarder=forwarder), None)
        found = algorithm(inner_predict_best_action=giving(best))
        chosen = lambda _, action, reduction: slow.min(0).values[range(len(action)), action]  # noqa: E731
        found._targ_q_func_forwarder = SimpleNamespace(compute_target=chosen)
        return dqn_impl.DoubleDQNImpl.compute_target(found, batch())

    def rebrac_target(q: Tensor, policy_action: Tensor, action: Tensor, weight: float) -> Tensor:
        policy = giving(SimpleNamespace(mu=policy_action, squashed_mu=policy_action))
        found = algorithm(q[:, None], modules={"targ_policy": policy}, _critic_beta=weight)
        found._target_smoothing_sigma, found._target_smoothing_clip = 0.0, 0.0
        return rebrac_impl.ReBRACImpl.compute_target(found, batch(next_actions=action))[:, 0]

    def synced(slow: list[Tensor], fast: list[Tensor], tau: float) -> Tensor:
        one, other = (torch.nn.ParameterList([x.clone() for x in each]) for each in (slow, fast))
        soft_sync(one, other, tau)
        return torch.stack(list(one)).detach()

    def ensemble_error(q: Tensor, y: Tensor) -> Tensor:
        def forwarder(each: Tensor) -> Any:
            inner = SimpleNamespace(_q_func=lambda *_: SimpleNamespace(q_value=each[:, None]))
            error = mean_q_function.ContinuousMeanQFunctionForwarder.compute_error
            return SimpleNamespace(compute_error=lambda **given: error(inner, **given))

        column = torch.zeros(len(y), 1)
        return ensembles.compute_ensemble_q_function_error(
            [forwarder(each) for each in q], column, column, column, y[:, None], column, 1.0
        )

    def iql_value_loss(v: Tensor, q: Tensor, expectile: float) -> Tensor:
        found = algorithm(q, modules={"value_func": giving(v)}, _expectile=expectile)
        return iql_impl.IQLImpl.compute_value_loss(found, batch())

    def discrete_cql(q: Tensor, action: Tensor) -> Tensor:
        found = algorithm(q, action_size=q.shape[-1])
        return cql_impl.DiscreteCQLImpl._compute_conservative_loss(found, None, action)

    def conservative(
        q: Tensor, q_data: Tensor, log_mu: Tensor, size: int, weight: float, threshold: float, mean: bool = True
    ) -> Tensor:
        """Two candidates of the policy, two of the policy at the next state, two uniform ones."""
        values = iter([(q[..., :2], log_mu[:, :2]), (q[..., 2:4], log_mu[:, 2:4])])
        found = algorithm(q_data[..., None], _conservative_weight=weight, _alpha_threshold=threshold)
        found._compute_policy_is_values = lambda **_: next(values)
        found._compute_random_is_values = giving((q[..., 4:], float(np.log(0.5**size))))
        if not mean:  # the states one by one
            one = lambda k: conservative(q[:, k : k + 1], q_data[:, k : k + 1], log_mu[k : k + 1], size, weight, 0.0)  # noqa: E731
            return torch.cat([one(k) for k in range(q.shape[1])])
        return cql_impl.CQLImpl._compute_conservative_loss(found, None, None, None, None)

    def calibrated(q: Tensor, g: Tensor) -> Tensor:
        cql_impl.sample_q_values_with_policy = giving((q, None))
        found = cal_ql_impl.CalQLImpl.__new__(cal_ql_impl.CalQLImpl)
        found._modules, found._q_func_forwarder, found._n_action_samples = SimpleNamespace(policy=None), None, 1
        return found._compute_policy_is_values(None, None, g[:, None])[0]

    def iql_policy_loss(log_prob: Tensor, weight: Any) -> Tensor:
        drawing(iql_impl, "build_gaussian_distribution", log_prob)
        found = algorithm(_compute_weight=giving(weight))
        return iql_impl.IQLImpl.compute_actor_loss(found, batch(), None).actor_loss

    def crr_policy_loss(log_prob: Tensor, weight: Any) -> Tensor:
        drawing(crr_impl, "build_gaussian_distribution", log_prob)
        found = algorithm(_compute_weight=giving(weight))
        return crr_impl.CRRImpl.compute_actor_loss(found, batch(), None).actor_loss

    def awac_policy_loss(log_prob: Tensor, weight: Any) -> Tensor:
        drawing(awac_impl, "build_gaussian_distribution", log_prob)
        found = algorithm(_compute_weights=giving(weight))
        return awac_impl.AWACImpl.compute_actor_loss(found, batch(), None).actor_loss

    def awac_weights(a: Tensor, lam: float) -> Tensor:
        """One sampled action, whose value is 0."""
        answers = iter([a[:, None], 0 * a[:, None]])
        found = algorithm(modules={"policy": giving(None)}, _n_action_samples=1, action_size=1, _lam=lam)
        found._q_func_forwarder.compute_expected_q = lambda *_: next(answers)
        awac_impl.build_gaussian_distribution = giving(SimpleNamespace(sample_n=lambda n: torch.zeros(len(a), n, 1)))
        return awac_impl.AWACImpl._compute_weights(found, torch.zeros(len(a), 1), None)[:, 0]

    def imitation(policy_action: Tensor, action: Tensor) -> Tensor:
        policy = giving(SimpleNamespace(squashed_mu=policy_action))
        return imitators.compute_deterministic_imitation_loss(policy, None, action).loss

    def iql_weights(a: Tensor, beta: float) -> Tensor:
        found = algorithm(a, modules={"value_func": giving(0 * a)}, _weight_temp=beta, _max_weight=100.0)
        return iql_impl.IQLImpl._compute_weight(found, batch())

    def crr_weights(a: Tensor, beta: float) -> Tensor:
        found = algorithm(_compute_advantage=giving(a), _weight_type="exp", _beta=beta, _max_weight=20.0)
        return crr_impl.CRRImpl._compute_weight(found, None, None)

    def td3_bc(q: Tensor, policy_action: Tensor, action: Tensor) -> Tensor:
        found, output = algorithm(q[None], _alpha=2.5), SimpleNamespace(squashed_mu=policy_action)
        return td3_plus_bc_impl.TD3PlusBCImpl.compute_actor_loss(found, batch(actions=action), output).actor_loss

    def rebrac(q: Tensor, policy_action: Tensor, action: Tensor, weight: float) -> Tensor:
        least = q if q.ndim == 1 else q.min(0).values
        found, output = algorithm(least[:, None], _actor_beta=weight), SimpleNamespace(squashed_mu=policy_action)
        return rebrac_impl.ReBRACImpl.compute_actor_loss(found, batch(actions=action), output).actor_loss

    def sac(log_prob: Tensor, q: Tensor, temperature: float) -> Tensor:
        drawing(sac_impl, "build_squashed_gaussian_distribution", log_prob[:, None])
        sac_impl.build_squashed_gaussian_distribution(None).sample_with_log_prob = giving((q[0], log_prob[:, None]))
        found = algorithm(q.min(0).values[:, None], Parameter(torch.tensor(temperature).log()))
        return sac_impl.SACImpl.compute_actor_loss(found, batch(), None).actor_loss

    def temperature(log_temp: Tensor, log_prob: Tensor, size: int) -> Tensor:
        optimizer = SimpleNamespace(zero_grad=giving(None), step=giving(None))
        found = algorithm(log_temp=Parameter(log_temp), modules={"temp_optim": optimizer}, _action_size=size)
        return sac_impl.SACImpl.update_temp(found, log_prob[:, None]).detach()

    def discrete_sac(logits: Tensor, q: Tensor, temperature: float) -> Tensor:
        policy = giving(torch.distributions.Categorical(logits=logits))
        found = algorithm(q, Parameter(torch.tensor(temperature).log()), modules={"policy": policy})
        return sac_impl.DiscreteSACImpl.compute_actor_loss(found, batch())["loss"]

    def vae(mu: Tensor, log_sigma: Tensor, u: Tensor, a: Tensor, beta: float) -> Tensor:
        encoder = giving(torch.distributions.Normal(mu, log_sigma.exp()))
        return imitators.compute_vae_error(encoder, giving(u), None, a, beta)

    def decision_transformer(a: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        found = SimpleNamespace(_modules=SimpleNamespace(transformer=giving(a)))
        given = batch(actions=y, masks=mask.double(), returns_to_go=None, timesteps=None)
        return DecisionTransformerImpl.compute_loss(found, given)

    def bcq(q: Tensor, candidates: Tensor) -> Tensor:
        found = SimpleNamespace(_repeat_observation=giving(None), _n_action_samples=q.shape[-1])
        found._sample_repeated_action, found._predict_value = giving(candidates), giving(q[None])
        return bcq_impl.BCQImpl.inner_predict_best_action(found, None)

    def bcq_discrete(logits: Tensor, action: int) -> Tensor:
        """An action is kept if it is chosen where it is the best."""
        values = torch.nn.functional.one_hot(torch.tensor(action), logits.shape[-1]).double().expand(logits.shape)
        policy = giving(SimpleNamespace(logits=logits))
        found = algorithm(values, modules={"imitator": policy}, _action_flexibility=0.3)
        return bcq_impl.DiscreteBCQImpl.inner_predict_best_action(found, None) == action

    return with_torch({**space, **locals()})
