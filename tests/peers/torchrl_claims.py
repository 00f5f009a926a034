"""TorchRL: functions, and methods of its losses with our letters in the place of their networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from claims import Claim, Claims, Evaluate, with_torch
from torch import Tensor

TIME = "r[:, None], done[:, None]"
FLAGS = f"{TIME}, terminated[:, None]"
INSIDE = "inside of a loss of networks; read"

CLAIMS: Claims = {
    # returns and targets
    "discounted_return: discounted_return(r, done, discount=gamma)": f"value.reward2go({TIME}, gamma)[:, 0]",
    "discounted_return: discounted_return(r, done, discount=gamma, next_value=next_v, terminated=terminated)": (
        f"value.td1_return_estimate(gamma, next_v[:, None], {FLAGS})[:, 0]"
    ),
    "n_step_return: n_step_return(r, torch.zeros_like(r), terminated, done, n=n, discount=gamma)": (
        "multi_step(r, done, gamma, n)"
    ),
    "lambda_return: lambda_return(r, next_v, terminated, done, discount=gamma, lambda_=lam)": [
        f"value.td_lambda_return_estimate(gamma, lam, next_v[:, None], {FLAGS})[:, 0]",
        f"value.vec_td_lambda_return_estimate(gamma, lam, next_v[:, None], {FLAGS})[:, 0]",
    ],
    "lambda_return: generalized_advantage(r, v, next_v, terminated, done, discount=gamma, lambda_=lam)": [
        f"value.generalized_advantage_estimate(gamma, lam, v[:, None], next_v[:, None], {FLAGS})[0][:, 0]",
        f"value.vec_generalized_advantage_estimate(gamma, lam, v[:, None], next_v[:, None], {FLAGS})[0][:, 0]",
    ],
    "bellman_target: bellman_target(r, next_v, terminated, discount=gamma)": [
        "value.td0_return_estimate(gamma, next_v, r, terminated)",
        Claim(
            "value.td0_return_estimate(gamma, next_v, r, terminated)",
            draw="terminated[0] = True; next_v[0] = math.inf",
            by="",
            differs="NaN where infinity stands behind a terminated step",
        ),
    ],
    "soft_bellman_target: bellman_target(r, next_q, terminated, discount=gamma)": Claim(
        "backup(r, next_q[None], terminated, gamma, max_q_backup=False)", by=""
    ),
    "candidate_max_value: candidate_max_value(q)": Claim(
        "backup(torch.zeros(B), q, torch.zeros(B).bool(), 1.0, max_q_backup=True)", by=""
    ),
    "vtrace_return: vtrace_return(r, v, next_v, log_rho, terminated, done, discount=gamma, max_ratio=rho_bar, "
    "max_trace=c_bar)": Claim(f"vtrace(gamma, log_rho, v, next_v, {FLAGS}, rho_bar, c_bar)[1][:, 0]", by="r v next_v"),
    "vtrace_advantage: vtrace_advantage(r, v, next_v, log_rho, terminated, done, discount=gamma, max_ratio=rho_bar, "
    "max_trace=c_bar)": Claim(
        f"vtrace(gamma, log_rho, values[:-1], nexts, {FLAGS}, rho_bar, c_bar)[0][:, 0]",
        draw="values, after = v.abs().max() * torch.randn(2, len(r) + 1)\n"
        "nexts = torch.where(done, after[1:], values[1:])",
        let="v, next_v = values[:-1], nexts",
        by="r",
    ),
    # regression and distributions
    "squared_loss: E * squared_loss(q, y)": Claim('distance_loss(q, y.expand(E, B), "l2").mean(-1).sum()', by="q"),
    "squared_loss: 0.5 * squared_loss(q, y)": Claim("discrete_value_loss(q, y)", draw="q = q[0]", by="q"),
    "huber_loss: E * huber_loss(q, y)": Claim('distance_loss(q, y.expand(E, B), "smooth_l1").mean(-1).sum()', by="q"),
    'expectile_loss: expectile_loss(v, q, expectile=e, reduction="none")': Claim(
        "objectives.IQLLoss.loss_value_diff(q - v, e)", by="v"
    ),
    "quantile_huber_loss: 1 / N * quantile_huber_loss(theta, y)": Claim("tqc(theta, y)", by="theta"),
    "two_hot: two_hot(x, z)": Claim("model_based.two_hot_encode(x, z)", by=""),
    "categorical_value: categorical_value(logits, z)": Claim("model_based.two_hot_decode(logits, z)", by="logits"),
    "categorical_loss: categorical_loss(logits, target)": Claim(
        "categorical(logits, p, atoms[:, 2:3], z)",
        draw="p = torch.rand(B, N).softmax(-1)",
        let="target = categorical_projection(p, atoms[:, 2:3] + 0.5 * z, z)",
        by="logits",
    ),
    # conservative
    "cql_logsumexp_penalty: cql_logsumexp_penalty(q, q_data)": Claim(
        "torch.stack([discrete_cql(each, action) for each in q]).mean()",
        draw="action = torch.randint(N, (B,))",
        let="q_data = q[:, range(B), action]",
        by="q",
    ),
    "cql_lagrange_losses: loss.dual": Claim(
        "alpha_prime(gap, log_alpha, tau)",
        draw="gap, log_alpha = q_data.abs(), torch.tensor(0.3)",
        let="loss = cql_lagrange_losses(gap, log_alpha, threshold=tau, penalty_weight=1.0)",
        by="log_alpha",
    ),
    # policies and weights
    "awr_weights: awr_weights(a, temperature=1 / beta)": Claim("iql_weights(a, beta)", by=""),
    "td3_bc_loss: td3_bc_loss(q, policy_action, action)": "td3_bc(q, policy_action, action)",
    "temperature_loss: temperature_loss(log_T, log_prob, target_entropy=-A)": Claim(
        "objectives.REDQLoss._loss_alpha(fake(target_entropy=-A, _safe_log_alpha=log_T), "
        "log_prob.requires_grad_()).mean()",
        by="log_T",
    ),
    "tanh_gaussian_log_prob: tanh_gaussian_log_prob(mu, log_std, pre_tanh=x) - ((high - low) / 2).log().sum(-1)": Claim(
        "TanhNormal(mu, log_std.exp(), low=low, high=high, tanh_loc=False, event_dims=1)"
        ".log_prob(low + (high - low) / 2 * (x.tanh() + 1))",
        draw="log_std, x = log_std.clamp(-2, 2), x.clamp(-3, 3)",
        by="mu log_std",
    ),
    "sequence_action_loss: sequence_action_loss(a, y)": Claim("decision_transformer(a, y)", by="a"),
    "diffusion_point: diffusion_point(z, a, share)": Claim(
        "add_noise(a, share)", draw="torch.manual_seed(7); z = torch.randn_like(a)", by="a"
    ),
    "diffusion_loss: diffusion_loss(out, z, a, share)": Claim("diffusion_bc(out, z, a)", by="out"),
}
READ = {
    "categorical_projection: categorical_projection(p, atoms, z)": "a part of categorical_loss, checked there",
    "soft_value: T * math.log(N) + soft_value(q, log_density=log_mu / T, temperature=T)": INSIDE,
    "softmax_entropy: softmax_entropy(logits)": "`torch.distributions`, checked in the ordinary tests",
    'quantile_loss: huber_loss(x, y, weight=(tau - (y < x).float()).abs(), reduction="none")': (
        "a part of the loss of quantile_huber_loss, checked there"
    ),
    "ensemble_min: ensemble_subset_min(q, subset)": INSIDE,
    "polyak_update_: polyak_update_(slow, fast, polyak=1 - eps)": "takes a loss of networks; read",
    "episode_return: episode_return(r, done)[done]": "a transform of an environment; read",
    "observation_statistics: (o - mean) / (std * math.sqrt(N / (N - 1))).clamp(min=eps)": (
        "a transform of an environment; read"
    ),
    "nll_loss: nll_loss(log_prob, weight=w)": INSIDE,
    "sac_policy_loss: sac_policy_loss(log_prob, ensemble_min(q), temperature=T)": INSIDE,
    "sac_policy_loss: sac_policy_loss(log_prob, ensemble_mean(q), temperature=T)": INSIDE,
    "sac_policy_loss: sac_policy_loss(log_prob, data_log_prob, temperature=T)": INSIDE,
    "soft_bellman_target: soft_bellman_target(r, next_q, log_prob, terminated, temperature=T, discount=gamma)": INSIDE,
    "expected_target: expected_target(r, next_q - T * p.log(), p, terminated, discount=gamma)": INSIDE,
    "double_q_target: double_q_target(r, next_q, next_q_target, terminated, discount=gamma)": INSIDE,
    "effective_sample_size: effective_sample_size(log_weight.exp()) / B": INSIDE,
}


def evaluator() -> Evaluate:
    """With losses that have no networks."""
    from tensordict import TensorDict
    from torchrl import objectives
    from torchrl.data import MultiStep
    from torchrl.envs.utils import ExplorationType
    from torchrl.modules import TanhNormal
    from torchrl.modules.models import model_based
    from torchrl.modules.tensordict_module import actors
    from torchrl.objectives.utils import distance_loss
    from torchrl.objectives.value import functional as value

    space = {"TanhNormal": TanhNormal, "model_based": model_based, "distance_loss": distance_loss}

    class Parameters(dict[str, Tensor]):
        """Of a network that needs none."""

        data = property(lambda self: self)

        def to_module(self, *_: Any, **__: Any) -> Any:
            return nullcontext()

    class Keys:
        """Each key is its own name."""

        def __getattr__(self, name: str) -> str:
            return name

    def setting(**given: Any) -> Callable[[Any], Any]:
        """A network that gives these."""
        return lambda data: data.update(given)

    def fake(**given: Any) -> SimpleNamespace:
        """A loss with a mean for its reduction."""
        names = "actor_network", "qvalue_network", "value_network", "target_value_network"
        parameters = {f"{name}_params": Parameters() for name in names}
        reduce = {"_reduce_loss": lambda loss, **_: loss.mean(), "_clear_weakrefs": lambda *_: None}
        keys = {
            "tensor_keys": Keys(),
            "deterministic_sampling_mode": ExplorationType.DETERMINISTIC,
            "_maybe_get_priority_weight": lambda _: None,
        }
        return SimpleNamespace(
            **{**parameters, **reduce, **keys, "_cached_detach_qvalue_network_params": None, **given}
        )

    def network(**given: Any) -> Any:
        return type("", (), {"in_keys": ["observation"], "__call__": staticmethod(setting(**given))})()

    def data(size: int, **given: Any) -> Any:
        return TensorDict({"observation": torch.zeros(size, 1), **given}, [size])

    def plain(method: Any) -> Any:
        """Without the decorator that reads arguments."""
        return inspect.unwrap(method)

    def multi_step(r: Tensor, done: Tensor, gamma: float, n: int) -> Tensor:
        following = {"reward": r[None, :, None], "done": done[None, :, None], "observation": r[None, :, None].detach()}
        return MultiStep(gamma, n)(TensorDict({"next": following}, [1, len(r)]))["next", "reward"][0, :, 0]

    def vtrace(gamma: float, log_rho: Tensor, v: Tensor, next_v: Tensor, *rest: Any) -> Any:
        columns = [x[:, None] for x in (log_rho, torch.zeros_like(log_rho), v, next_v)]
        return value.vtrace_advantage_estimate(gamma, *columns, *rest)

    def backup(r: Tensor, q: Tensor, terminated: Tensor, gamma: float, *, max_q_backup: bool) -> Tensor:
        estimate = lambda found: value.td0_return_estimate(  # noqa: E731
            gamma, found["next", "state_value"], r[:, None], terminated[:, None]
        )
        found = {"state_action_value": q.reshape(len(q), -1, 1)}
        distribution = SimpleNamespace(rsample=lambda *_: r, log_prob=lambda _: r)
        swap = SimpleNamespace(to_module=lambda *_, **__: None)
        loss = fake(
            max_q_backup=max_q_backup,
            deterministic_backup=True,
            actor_network=SimpleNamespace(get_dist=lambda _: distribution),
            _get_policy_actions=lambda given, *_, **__: (given, None),
            _vmap_qvalue_networkN0=lambda *_: found,
            num_qvalue_nets=len(q),
            num_random=q.shape[-1] if max_q_backup else 1,
            value_estimator=SimpleNamespace(tensor_keys=SimpleNamespace(value="state_value"), value_estimate=estimate),
        )
        parameters = SimpleNamespace(data=SimpleNamespace(to_module=lambda *_, **__: swap))
        batch = TensorDict({"next": {"observation": torch.zeros(len(r), 1)}}, [len(r)])
        return objectives.CQLLoss._get_value_v(loss, batch, 0.0, parameters, parameters)

    def discrete_value_loss(q: Tensor, y: Tensor) -> Tensor:
        estimator = SimpleNamespace(value_estimate=lambda *_, **__: y[:, None])
        loss = fake(value_network=network(action_value=q[:, None]), value_estimator=estimator, loss_function="l2")
        loss.action_space, loss._cached_detached_target_value_params = "categorical", None
        batch = data(len(q), action=torch.zeros(len(q), 1, dtype=torch.long), td_error=torch.zeros(len(q), 1))
        batch.update({"pred_val": q[:, None].detach().clone(), "priority": torch.zeros(len(q), 1)})
        return plain(objectives.DiscreteCQLLoss.value_loss)(loss, batch)[0]

    def discrete_cql(q: Tensor, action: Tensor) -> Tensor:
        return objectives.DiscreteCQLLoss.cql_loss(
            fake(action_space="categorical"), data(len(q), pred_val=q, action=action)
        )[0]

    def alpha_prime(gap: Tensor, log_alpha: Tensor, tau: float) -> Tensor:
        loss = fake(log_alpha_prime=log_alpha, target_action_gap=tau)
        return objectives.CQLLoss.alpha_prime_loss(loss, {"cql_q1_loss": gap[0], "cql_q2_loss": gap[1]})[0]

    def tqc(theta: Tensor, y: Tensor) -> Tensor:
        loss = fake(compute_target=lambda _: y, qvalue_network=network(), qvalue_network_params=None)
        loss._vmap_qnetworkN0 = lambda *_: {"state_action_value": theta[None]}
        return objectives.TQCLoss.qvalue_v2_loss(loss, data(len(theta)))[0]

    def categorical(logits: Tensor, p: Tensor, r: Tensor, z: Tensor) -> Tensor:
        now, after = (x.unsqueeze(-1) for x in (logits.log_softmax(-1), p.log()))
        answers = iter([now, after, after])
        chosen = torch.zeros(len(p), 1, dtype=torch.long)
        loss = fake(gamma=0.5, action_space="categorical", use_prioritized_weights=False)
        loss.value_network = lambda given: given.update({"action_value": next(answers), "action": chosen})
        loss.value_network_params = Parameters(support=z)
        loss._log_ps_a_categorical = objectives.DistributionalDQNLoss._log_ps_a_categorical
        no = torch.zeros(len(p), 1, dtype=torch.bool)
        following = {"reward": r[:, :1], "done": no, "terminated": no, "observation": torch.zeros(len(p), 1)}
        batch = data(len(p), action=chosen, next=TensorDict(following, [len(p)]))
        return plain(objectives.DistributionalDQNLoss.forward)(loss, batch)["loss"]

    def iql_weights(a: Tensor, beta: float) -> Tensor:
        distribution = SimpleNamespace(log_prob=lambda _: -torch.ones_like(a))
        loss = fake(actor_network=SimpleNamespace(get_dist=lambda _: distribution), qvalue_network=network())
        loss._vmap_qvalue_networkN0 = lambda *_: {"state_action_value": a[None, :, None]}
        loss.target_qvalue_network_params, loss.temperature = None, beta
        loss.value_network, loss._reduce_loss = network(value=torch.zeros(len(a), 1)), lambda each, **_: each
        return objectives.IQLLoss.actor_loss(loss, data(len(a), action=a[:, None]))[0]

    def td3_bc(q: Tensor, policy_action: Tensor, action: Tensor) -> Tensor:
        loss = fake(actor_network=network(action=policy_action), qvalue_network=network(), num_qvalue_nets=1, alpha=2.5)
        loss._vmap_qvalue_network00 = lambda *_: {"state_action_value": q[None, :, None]}
        return objectives.TD3BCLoss.actor_loss(loss, data(len(q), action=action))[0]

    def decision_transformer(a: Tensor, y: Tensor) -> Tensor:
        loss = fake(actor_network=network(action_pred=a), loss_function="l2")
        return plain(objectives.DTLoss.forward)(loss, data(len(a), action_target=y))["loss"]

    def add_noise(a: Tensor, share: Tensor) -> Tensor:
        torch.manual_seed(7)
        actor = SimpleNamespace(_validate_timestep_dtype=lambda _: None, _schedule=lambda _: (None, None, share))
        owner = next(x for x in vars(actors).values() if isinstance(x, type) and "add_noise" in vars(x))
        return owner.add_noise(actor, a, torch.arange(len(a)))[0]

    def diffusion_bc(out: Tensor, z: Tensor, a: Tensor) -> Tensor:
        ddpm = SimpleNamespace(num_steps=5, add_noise=lambda *_: (a, z), score_network=lambda _: out)
        loss = fake(actor_network=SimpleNamespace(module=ddpm), reduction="mean")
        return plain(objectives.DiffusionBCLoss.forward)(loss, data(len(a), action=a))["loss_diffusion_bc"]

    return with_torch({**space, **locals()})
