"""Losses and components of offline reinforcement learning as pure PyTorch functions."""

from offline_losses import _compile  # noqa: F401  formulas find the compiler registered
from offline_losses.bandit import bandit_doubly_robust_value, ips_value, self_normalized_ips_value
from offline_losses.behavior import ddpg_bc_loss, rebrac_policy_loss, rebrac_target
from offline_losses.chunks import chunk_return
from offline_losses.conservative import (
    CQLLagrangeLosses,
    calibrated_value,
    cql_lagrange_losses,
    cql_logsumexp_penalty,
    cql_max_penalty,
)
from offline_losses.corrections import retrace_return, trace_return, tree_backup_return
from offline_losses.density import gaussian_log_prob, tanh_gaussian_log_prob, uniform_log_density
from offline_losses.diagnostics import Gap, clip_fraction, overestimation_gap, q_gap, support_coverage, td_error_scale
from offline_losses.dice import opti_dice_loss, smodice_loss
from offline_losses.diffusion import diffusion_loss, diffusion_point, diffusion_prediction
from offline_losses.discrete import (
    advantage_learning_reward,
    discrete_sac_loss,
    discrete_soft_target,
    munchausen_reward,
)
from offline_losses.distance import mmd_penalty, nearest_distance_penalty
from offline_losses.distributional import (
    categorical_loss,
    categorical_projection,
    categorical_value,
    hl_gauss,
    quantile_huber_loss,
    two_hot,
)
from offline_losses.divergence import categorical_kl_penalty, gaussian_kl_penalty, sampled_kl_penalty
from offline_losses.doubly_robust import doubly_robust_value, weighted_doubly_robust_value
from offline_losses.ends import check_ends
from offline_losses.ensemble import ensemble_mean, ensemble_min, ensemble_mix, ensemble_subset_min, polyak_update_
from offline_losses.entropic import soft_value, softmax_entropy, softmax_weights
from offline_losses.extraction import (
    advantage_indicator,
    best_of_n,
    mpo_temperature_loss,
    mpo_weights,
    top_fraction_weights,
)
from offline_losses.f_divergence import dice_weights, f_conjugate, f_divergence_penalty
from offline_losses.filters import (
    ObservationStatistics,
    episode_return,
    normalize_observation,
    observation_statistics,
    return_filter,
    reward_scale,
)
from offline_losses.flow import distillation_loss, flow_matching_loss, flow_point
from offline_losses.goal import (
    GoalReward,
    HierarchicalAdvantages,
    goal_reward,
    hierarchical_advantages,
    hindsight_goals,
)
from offline_losses.guidance import guided_field, path_kl_penalty, q_score_penalty
from offline_losses.implicit import (
    binary_expectile_loss,
    exponential_value_loss,
    gumbel_loss,
    sparse_value_loss,
    sparse_weights,
)
from offline_losses.importance import (
    ValueEstimate,
    importance_sampling_value,
    importance_weights,
    weighted_importance_sampling_value,
)
from offline_losses.intervals import Interval, bootstrap_interval, empirical_bernstein_interval, normal_interval
from offline_losses.language import path_consistency_loss, preference_loss, reward_regression_loss
from offline_losses.magic import magic_value
from offline_losses.out_of_distribution import combo_penalty, mcq_loss
from offline_losses.per_decision import per_decision_value, weighted_per_decision_value
from offline_losses.policy import (
    nll_loss,
    sac_policy_loss,
    td3_bc_loss,
    temperature_loss,
)
from offline_losses.projection import LinearLogProb, linear_cql_penalty, linear_log_prob, linear_nll_loss
from offline_losses.ratios import check_log_ratio
from offline_losses.reachability import (
    QuasimetricLosses,
    contrastive_loss,
    quasimetric_losses,
    transitive_target,
    transitive_weights,
)
from offline_losses.recurrence import linear_recurrence
from offline_losses.regression import expectile_loss, huber_loss, quantile_loss, squared_loss
from offline_losses.relabel import relabel_return
from offline_losses.reporting import (
    interquartile_mean,
    normalized_score,
    probability_of_improvement,
    stratified_bootstrap_interval,
)
from offline_losses.returns import discounted_return, generalized_advantage, lambda_return, n_step_return
from offline_losses.sampling import (
    EpisodeBounds,
    EpisodeWindows,
    episode_bounds,
    episode_windows,
    sampling_probabilities,
)
from offline_losses.sequence import sequence_action_loss, sequence_log_prob
from offline_losses.shards import merged_moments, moment_statistics, observation_moments, return_threshold
from offline_losses.smoothing import smoothed_action
from offline_losses.squash import signed_hyperbolic, signed_parabolic, symexp, symlog
from offline_losses.support import elbo_loss, evidence_lower_bound, spot_penalty, support_mask
from offline_losses.targets import (
    bellman_target,
    candidate_max_value,
    double_q_target,
    expected_target,
    soft_bellman_target,
)
from offline_losses.uncertainty import diversity_penalty, ensemble_lower_bound, uncertainty_penalized_reward
from offline_losses.update import compile_update
from offline_losses.value_flow import floq_loss, value_flow_loss
from offline_losses.visits import algae_dice_loss, dual_dice_loss
from offline_losses.vtrace import vtrace_advantage, vtrace_return
from offline_losses.weights import (
    NormalizedAdvantage,
    awr_weights,
    crr_weights,
    effective_sample_size,
    normalize_advantage,
    normalize_weights,
)

__version__ = "0.1.0"

__all__ = [
    "CQLLagrangeLosses",
    "EpisodeBounds",
    "EpisodeWindows",
    "Gap",
    "GoalReward",
    "HierarchicalAdvantages",
    "Interval",
    "LinearLogProb",
    "NormalizedAdvantage",
    "ObservationStatistics",
    "QuasimetricLosses",
    "ValueEstimate",
    "advantage_indicator",
    "advantage_learning_reward",
    "algae_dice_loss",
    "awr_weights",
    "bandit_doubly_robust_value",
    "bellman_target",
    "best_of_n",
    "binary_expectile_loss",
    "bootstrap_interval",
    "calibrated_value",
    "candidate_max_value",
    "categorical_kl_penalty",
    "categorical_loss",
    "categorical_projection",
    "categorical_value",
    "check_ends",
    "check_log_ratio",
    "chunk_return",
    "clip_fraction",
    "combo_penalty",
    "compile_update",
    "contrastive_loss",
    "cql_lagrange_losses",
    "cql_logsumexp_penalty",
    "cql_max_penalty",
    "crr_weights",
    "ddpg_bc_loss",
    "dice_weights",
    "diffusion_loss",
    "diffusion_point",
    "diffusion_prediction",
    "discounted_return",
    "discrete_sac_loss",
    "discrete_soft_target",
    "distillation_loss",
    "diversity_penalty",
    "double_q_target",
    "doubly_robust_value",
    "dual_dice_loss",
    "effective_sample_size",
    "elbo_loss",
    "empirical_bernstein_interval",
    "ensemble_lower_bound",
    "ensemble_mean",
    "ensemble_min",
    "ensemble_mix",
    "ensemble_subset_min",
    "episode_bounds",
    "episode_return",
    "episode_windows",
    "evidence_lower_bound",
    "expected_target",
    "expectile_loss",
    "exponential_value_loss",
    "f_conjugate",
    "f_divergence_penalty",
    "floq_loss",
    "flow_matching_loss",
    "flow_point",
    "gaussian_kl_penalty",
    "gaussian_log_prob",
    "generalized_advantage",
    "goal_reward",
    "guided_field",
    "gumbel_loss",
    "hierarchical_advantages",
    "hindsight_goals",
    "hl_gauss",
    "huber_loss",
    "importance_sampling_value",
    "importance_weights",
    "interquartile_mean",
    "ips_value",
    "lambda_return",
    "linear_cql_penalty",
    "linear_log_prob",
    "linear_nll_loss",
    "linear_recurrence",
    "magic_value",
    "mcq_loss",
    "merged_moments",
    "mmd_penalty",
    "moment_statistics",
    "mpo_temperature_loss",
    "mpo_weights",
    "munchausen_reward",
    "n_step_return",
    "nearest_distance_penalty",
    "nll_loss",
    "normal_interval",
    "normalize_advantage",
    "normalize_observation",
    "normalize_weights",
    "normalized_score",
    "observation_moments",
    "observation_statistics",
    "opti_dice_loss",
    "overestimation_gap",
    "path_consistency_loss",
    "path_kl_penalty",
    "per_decision_value",
    "polyak_update_",
    "preference_loss",
    "probability_of_improvement",
    "q_gap",
    "q_score_penalty",
    "quantile_huber_loss",
    "quantile_loss",
    "quasimetric_losses",
    "rebrac_policy_loss",
    "rebrac_target",
    "relabel_return",
    "retrace_return",
    "return_filter",
    "return_threshold",
    "reward_regression_loss",
    "reward_scale",
    "sac_policy_loss",
    "sampled_kl_penalty",
    "sampling_probabilities",
    "self_normalized_ips_value",
    "sequence_action_loss",
    "sequence_log_prob",
    "signed_hyperbolic",
    "signed_parabolic",
    "smodice_loss",
    "smoothed_action",
    "soft_bellman_target",
    "soft_value",
    "softmax_entropy",
    "softmax_weights",
    "sparse_value_loss",
    "sparse_weights",
    "spot_penalty",
    "squared_loss",
    "stratified_bootstrap_interval",
    "support_coverage",
    "support_mask",
    "symexp",
    "symlog",
    "tanh_gaussian_log_prob",
    "td3_bc_loss",
    "td_error_scale",
    "temperature_loss",
    "top_fraction_weights",
    "trace_return",
    "transitive_target",
    "transitive_weights",
    "tree_backup_return",
    "two_hot",
    "uncertainty_penalized_reward",
    "uniform_log_density",
    "value_flow_loss",
    "vtrace_advantage",
    "vtrace_return",
    "weighted_doubly_robust_value",
    "weighted_importance_sampling_value",
    "weighted_per_decision_value",
]
