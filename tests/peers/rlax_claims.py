"""rlax: its functions on our letters, mapped over rows, with discounts that end at a termination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from claims import Claim, Claims, Evaluate
from torch import Tensor

ONE_ROW = "values = torch.randn(STEPS + 1) * float(v.abs().max())"
PAIRS = "v, next_v = values[:-1], values[1:]"
ACTIONS = """
Q = q_tm1.abs().max() * torch.randn(STEPS + 1, 4)
a, pi, mu = torch.randint(4, (STEPS + 1,)), torch.rand(STEPS + 1, 4).softmax(-1), 0.1 + torch.rand(STEPS + 1)
"""
OF_ACTIONS = """
q_tm1, next_v = Q[range(STEPS), a[:-1]], (pi * Q).sum(-1)[1:]
log_pi = pi[range(STEPS), a[:-1]].log()
log_rho = log_pi - mu[:-1].log()
"""
STEPS = "STEPS = len(r)"
BEST = "best = a >= a.sort().values[-(B // 2)]"
SMALL = "10⁻¹⁰ is added to the sum of weights"

CLAIMS: Claims = {
    # corrections and V-trace
    "trace_return: trace_return(r, v, next_v, terminated, terminated, trace=lam * log_rho.exp(), "
    "ratio=log_rho.exp(), discount=gamma) - v": Claim(
        "multistep.importance_corrected_td_errors(r, gamma * ~terminated, jnp.exp(log_rho), lam, values)",
        draw=f"{STEPS}; log_rho = log_rho.clamp(-3, 3); {ONE_ROW}",
        let=PAIRS,
        by="r values",
    ),
    "trace_return: trace_return(r, q_tm1, next_v, terminated, terminated, trace=c.roll(-1), discount=gamma)": Claim(
        "rlax.general_off_policy_returns_from_q_and_v(q_tm1[1:], next_v, r, gamma * ~terminated, c[1:])",
        by="r q_tm1 next_v",
    ),
    "retrace_return: retrace_return(r, q_tm1, next_v, log_rho, terminated, terminated, discount=gamma, lambda_=lam) - "
    "q_tm1": [
        Claim(
            "rlax.retrace(Q[:-1], Q[1:], a[:-1], a[1:], r, gamma * ~terminated, pi[1:], mu[1:], lam, "
            "stop_target_gradients=False)",
            draw=STEPS + ACTIONS,
            let=OF_ACTIONS,
            by="r Q",
        ),
        Claim(
            "rlax.retrace_continuous(q_tm1, q_tm1[1:], next_v, r, gamma * ~terminated, log_rho[1:], lam, "
            "stop_target_gradients=False)",
            by="r q_tm1 next_v",
        ),
    ],
    "tree_backup_return: tree_backup_return(r, q_tm1, next_v, log_pi, terminated, terminated, discount=gamma)": Claim(
        "rlax.general_off_policy_returns_from_action_values(Q[1:], a[1:], r, gamma * ~terminated, "
        "pi[jnp.arange(1, 13), a[1:]], pi[1:])",
        draw=STEPS + ACTIONS,
        let=OF_ACTIONS,
        by="r Q",
    ),
    "vtrace_return: vtrace_return(r, v, next_v, log_rho, terminated, terminated, discount=gamma, lambda_=lam, "
    "max_ratio=rho_bar) - v": Claim(
        "rlax.vtrace(v, next_v, r, gamma * ~terminated, jnp.exp(log_rho), lam, rho_bar, stop_target_gradients=False)",
        by="r v next_v",
    ),
    "vtrace_advantage: vtrace_advantage(r, v, next_v, log_rho, terminated, terminated, discount=gamma, "
    "lambda_=lam)": Claim(
        "rlax.vtrace_td_error_and_advantage(values[:-1], values[1:], r, gamma * ~terminated, jnp.exp(log_rho), lam, "
        "stop_target_gradients=False).pg_advantage",
        draw=f"{STEPS}; {ONE_ROW}",
        let=PAIRS,
        by="r values",
    ),
    # returns and targets
    "discounted_return: discounted_return(r, terminated, discount=gamma, next_value=next_v, "
    "terminated=terminated)": "rlax.discounted_returns(r, gamma * ~terminated, next_v)",
    "n_step_return: n_step_return(r, next_v, terminated, terminated, n=n, discount=gamma)": (
        "rlax.n_step_bootstrapped_returns(r, gamma * ~terminated, next_v, n)"
    ),
    "lambda_return: lambda_return(r, next_v, terminated, terminated, discount=gamma, lambda_=lam)": (
        "rlax.lambda_returns(r, gamma * ~terminated, next_v, lam)"
    ),
    "lambda_return: generalized_advantage(r, v[:-1], v[1:], terminated, terminated, discount=gamma, lambda_=lam)": (
        "rlax.truncated_generalized_advantage_estimation(r, gamma * ~terminated, lam, v)"
    ),
    "bellman_target: bellman_target(r, next_v, terminated, discount=gamma) - v_tm1": (
        "rows(rlax.td_learning, stop_target_gradients=False)(v_tm1, r, gamma * ~terminated, next_v)"
    ),
    "expected_target: expected_target(r, next_q, p, terminated, discount=gamma) - q_tm1": (
        "rows(rlax.expected_sarsa, stop_target_gradients=False)(q_tm1[:, None], 0 * q_tm1.astype(int), r, "
        "gamma * ~terminated, next_q, p)"
    ),
    "double_q_target: double_q_target(r, q_t_selector, q_t_value, terminated, discount=gamma) - q_tm1": (
        "rows(rlax.double_q_learning, stop_target_gradients=False)(q_tm1[:, None], 0 * q_tm1.astype(int), r, "
        "gamma * ~terminated, q_t_value, q_t_selector)"
    ),
    # regression and distributions
    'squared_loss: 0.5 * squared_loss(q, y, reduction="none")': Claim("rlax.l2_loss(q, y)", by="q"),
    'huber_loss: huber_loss(q, y, delta=delta, reduction="none")': Claim("rlax.huber_loss(y - q, delta)", by="q"),
    'expectile_loss: expectile_loss(v, q, expectile=e, reduction="none")': Claim(
        "rlax.expectile_loss(v, q, e)", by="v"
    ),
    "quantile_loss: sum(quantile_loss(x.expand_as(y), y, quantile=t) for x, t in zip(theta, tau))": Claim(
        "rlax.quantile_regression_loss(theta, tau, y)", by="theta"
    ),
    'quantile_huber_loss: quantile_huber_loss(theta, y, quantile=tau, delta=delta, reduction="none")': Claim(
        "jax.vmap(lambda theta, y: rlax.quantile_regression_loss(theta, tau, y, delta))(theta, y)", by="theta"
    ),
    "two_hot: two_hot(x, z)": [
        Claim("rlax.transform_to_2hot(x, -2.0, 2.0, 5)", by="", differs="10⁻⁵ is added to the gap"),
        Claim("transforms.transform_to_2hot_nonlinear(x, z)", by=""),
    ],
    "categorical_projection: categorical_projection(p, atoms, z)": (
        "jax.vmap(rlax.categorical_l2_project, (0, 0, None))(atoms, p, z)"
    ),
    'categorical_loss: categorical_loss(logits, target, reduction="none")': Claim(
        "jax.vmap(rlax.categorical_td_learning, (None, 0, None, None, None, 0))(z, logits, 0.0, 1.0, z, "
        "jnp.log(target))",
        draw="target = torch.rand(B, N).softmax(-1)",
        by="logits",
    ),
    "categorical_value: categorical_value(p.log(), z)": Claim(
        "transforms.transform_from_2hot_nonlinear(p, z)", draw="p = torch.rand(B, N).softmax(-1)", by=""
    ),
    "soft_value: eps * T + soft_value(q, log_density=torch.zeros_like(q), temperature=T)": "mpo(q, T, eps)[0]",
    "softmax_weights: softmax_weights(q, temperature=T)": Claim("mpo(q, T, eps)[1]", by=""),
    "softmax_entropy: softmax_entropy(logits, temperature=T)": "rlax.softmax(T).entropy(logits)",
    "mpo_weights: mpo_weights(q, temperature=T)": Claim("mpo(q, T, eps)[1]", by=""),
    "mpo_weights: mpo_weights(torch.where(best, a, -math.inf), temperature=T)": Claim(
        "vmpo(a, T, eps)[1]", draw=BEST, by=""
    ),
    "mpo_temperature_loss: mpo_temperature_loss(log_T, q, max_kl=eps)": Claim(
        "mpo(q, jnp.exp(log_T), eps)[0].mean()", by="log_T"
    ),
    "mpo_temperature_loss: mpo_temperature_loss(log_T, torch.where(best, a, -math.inf), max_kl=eps)": Claim(
        "vmpo(a, jnp.exp(log_T), eps)[0]", draw=BEST, by="log_T"
    ),
    "top_fraction_weights: top_fraction_weights(a, fraction=f)": [
        Claim("mpo_ops.get_top_k_weights(f, jnp.ones_like(a), a)", draw="f = 0.5", by=""),
        Claim("mpo_ops.get_top_k_weights(f, jnp.ones_like(a), a)", by="", differs="⌊fn⌋ for ⌊fn + ½⌋: 3 for 4 of 12"),
    ],
    "normalize_weights: softmax_weights(a, temperature=T, mask=chosen)": Claim(
        "vmpo(a, T, eps)[1]", draw=BEST.replace("best", "chosen"), by=""
    ),
    # policies
    "nll_loss: nll_loss(log_prob, weight=adv * w)": Claim(
        "rlax.policy_gradient_loss(logits, chosen, adv, w)",
        draw="logits, chosen, w = torch.randn(B, N), torch.randint(N, (B,)), torch.rand(B)",
        let="log_prob = logits.log_softmax(-1)[range(B), chosen]",
        by="logits",
    ),
    "gaussian_log_prob: gaussian_log_prob(mu, sigma.log(), a)": Claim(
        "rlax.gaussian_diagonal().logprob(a, mu, sigma)", draw="sigma = 0.1 + torch.rand(B, A)"
    ),
    "tanh_gaussian_log_prob: tanh_gaussian_log_prob(mu.tanh(), log_sigma, pre_tanh=x)": Claim(
        "rlax.squashed_gaussian().logprob(jnp.tanh(x), mu, s, None)",
        draw="s, x = torch.randn(B, A), x.clamp(-3, 3)",
        let="log_sigma = -4 + 2 * (s.tanh() + 1)",
        by="mu s",
    ),
    'gaussian_kl_penalty: gaussian_kl_penalty(mu_0, sigma_0.log(), mu_1, sigma_1.log(), reduction="none")': Claim(
        "distributions.multivariate_normal_kl_divergence(mu_0, sigma_0, mu_1, sigma_1)",
        draw="sigma_0, sigma_1 = 0.1 + torch.rand(2, B, A)",
        by="mu_0 sigma_0",
    ),
    'categorical_kl_penalty: categorical_kl_penalty(logits / T, reference_logits / T, reduction="none")': Claim(
        "rlax.categorical_kl_divergence(logits, reference_logits, T)", by="logits"
    ),
    # squash
    "symlog: symlog(x)": "rlax.signed_logp1(x)",
    "symexp: symexp(x)": "rlax.signed_expm1(x)",
    "signed_hyperbolic: signed_hyperbolic(x, epsilon=eps)": "rlax.signed_hyperbolic(x, eps)",
    "signed_parabolic: signed_parabolic(x, epsilon=eps)": "rlax.signed_parabolic(x, eps)",
}
READ: dict[str, str] = {}


def evaluator() -> Evaluate:
    """In float64, with the derivatives of JAX."""
    import jax
    import jax.numpy as jnp
    import rlax
    from rlax._src import distributions, mpo_ops, multistep, transforms

    jax.config.update("jax_enable_x64", True)

    def penalty(temperature: Any, eps: float) -> Any:
        return rlax.LagrangePenalty(alpha=jnp.asarray(temperature), epsilon=jnp.asarray(eps), per_dimension=False)

    def mpo(q: Any, temperature: Any, eps: float) -> Any:
        return rlax.mpo_compute_weights_and_temperature_loss(q, penalty(temperature, eps), lambda x: x, sample_axis=1)

    def vmpo(a: Any, temperature: Any, eps: float) -> Any:
        ones = jnp.ones_like(a)
        return rlax.vmpo_compute_weights_and_temperature_loss(
            a, ones, ones, penalty(temperature, eps), lambda x: x, top_k_fraction=0.5
        )

    def rows(function: Any, **options: Any) -> Any:
        return jax.vmap(lambda *arguments: function(*arguments, **options))

    space = {"jax": jax, "jnp": jnp, "rlax": rlax, "distributions": distributions}
    space |= {"mpo_ops": mpo_ops, "multistep": multistep, "transforms": transforms}
    space |= {"mpo": mpo, "vmpo": vmpo, "rows": rows}

    def array(x: Any) -> Any:
        return jnp.asarray(x.detach().numpy()) if isinstance(x, Tensor) else x

    def evaluate(
        theirs: str, letters: Mapping[str, Any], moved: Mapping[str, Tensor], cotangent: Tensor
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        fixed = {name: array(x) for name, x in letters.items()}

        def function(given: dict[str, Any]) -> Any:
            return eval(theirs, {**fixed, **space, **given})

        result, pull = jax.vjp(function, {name: array(x) for name, x in moved.items()})
        slopes = {name: torch.tensor(x.tolist()) for name, x in pull(array(cotangent).astype(result.dtype))[0].items()}
        return torch.tensor(result.tolist()), slopes or None

    return evaluate
