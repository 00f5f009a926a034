"""TRL: the losses of its trainers, which are methods, on log-probabilities of tokens in the place of a model's."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from claims import Claim, Claims, Evaluate, with_torch
from torch import Tensor

TOKENS = """
mask = torch.arange(6) < torch.randint(1, 7, (2 * B, 1))
tokens, reference = -float(c.abs().max()) * torch.rand(2, 2 * B, 6) * mask
"""
RATIOS = """
summed, mean = (sequence_log_prob(tokens - reference, mask, length_normalized=each) for each in (False, True))
(c, r), (c_mean, r_mean) = summed.chunk(2), mean.chunk(2)
"""
ONE_PAIR = "B = 1\n" + TOKENS


def pairs(kind: str, draw: str = TOKENS, eps: str = "0.0", differs: str = "") -> Claim:
    """A loss of pairs of answers."""
    theirs = f'dpo("{kind}", tokens * mask, reference, mask, beta, {eps})'
    return Claim(theirs, draw, RATIOS, by="tokens", differs=differs)


SORTED = "sorts over the batch"
CLAIMS: Claims = {
    "preference_loss: preference_loss(c, r, kl_weight=beta)": pairs("sigmoid"),
    'preference_loss: preference_loss(c, r, kind="hinge", kl_weight=beta)': pairs("hinge"),
    'preference_loss: preference_loss(c_mean, r_mean, kind="ipo", kl_weight=beta)': pairs("ipo"),
    'preference_loss: preference_loss(c, r, kind="exo", kl_weight=beta, label_smoothing=eps)': pairs(
        "exo_pair", eps="eps"
    ),
    'preference_loss: preference_loss(c, r, kind="robust_dpo", kl_weight=beta, label_smoothing=eps)': pairs(
        "robust", eps="eps"
    ),
    'preference_loss: preference_loss(c, r, kind="nca", kl_weight=beta)': pairs("nca_pair"),
    'preference_loss: preference_loss(c, r, kind="bco", kl_weight=beta)': pairs("bco_pair"),
    'preference_loss: preference_loss(c, r, kind="sppo", kl_weight=beta)': pairs("sppo_hard"),
    'preference_loss: preference_loss(c, r, kind="apo_zero", kl_weight=beta)': pairs("apo_zero"),
    'preference_loss: preference_loss(c, r, kind="apo_down", kl_weight=beta)': pairs("apo_down"),
    "preference_loss: preference_loss(c_mean, r_mean, kl_weight=beta)": pairs("sigmoid_norm"),
    'preference_loss: preference_loss(c, r, kind="cdpo", kl_weight=beta, label_smoothing=eps)': [
        pairs("aot", ONE_PAIR, "eps"),
        pairs("aot_unpaired", ONE_PAIR, "eps"),
        pairs("aot", TOKENS, "eps", SORTED),
        pairs("aot_unpaired", TOKENS, "eps", SORTED),
    ],
    'sampled_kl_penalty: sampled_kl_penalty(log_prob, ref_log_prob, reduction="none")': Claim(
        "grpo(log_prob, ref_log_prob)",
        draw="log_prob, ref_log_prob = -log_prob.abs(), -ref_log_prob.abs()",
        by="log_prob",
        turn="ours.mean()",
        large="a line beyond max_exponent = 20; theirs ends at infinity",
    ),
}
_METHOD = "inside of a method that generates text; read at f2cd577"
READ = {
    'sampled_kl_penalty: sampled_kl_penalty(log_prob, ref_log_prob, estimator="k1", reduction="none")': (
        "not in the released package; read at f2cd577"
    ),
    'sampled_kl_penalty: sampled_kl_penalty(log_prob, ref_log_prob, estimator="k1", reduction="none").sum(-1)': _METHOD,
    "sequence_log_prob: sequence_log_prob(lp, mask)": "a part of the losses of preference_loss, checked with them",
    "sequence_log_prob: sequence_log_prob(lp, mask, length_normalized=True)": (
        "a part of the losses of preference_loss, checked with them"
    ),
}


def evaluator() -> Evaluate:
    """With a trainer that has no model."""
    from trl import DPOTrainer, GRPOTrainer

    class Alone:
        """An accelerator of one process."""

        device, num_processes = torch.device("cpu"), 1
        gather = gather_for_metrics = staticmethod(lambda x: x)
        reduce = staticmethod(lambda x, reduction: x)

    common = {"accelerator": Alone(), "model": SimpleNamespace(training=True), "aux_loss_enabled": False}
    common |= {"_metrics": {"train": defaultdict(list)}, "current_gradient_accumulation_steps": 1}

    def dpo(kind: str, policy: Tensor, reference: Tensor, mask: Tensor, beta: float, eps: float) -> Tensor:
        zeros = torch.zeros_like(policy)
        outputs = SimpleNamespace(log_probs=policy, entropy=zeros, mean_logits=zeros, aux_loss=None, is_top1=zeros > 0)
        outputs = SimpleNamespace(**vars(outputs), accuracy=None, correct=zeros, log_sum_sq_probs=zeros)
        settings = {"loss_types": [kind], "loss_weights": [1.0], "label_smoothing": eps, "beta": beta, "ld_alpha": None}
        settings |= {"f_divergence_type": "reverse_kl", "precompute_ref_logps": True, "use_weighting": False}
        settings |= {"_total_train_tokens": 0, "_tp_size": 1, "args": SimpleNamespace(discopop_tau=0.05)}
        answers = torch.cat([torch.zeros_like(mask[:, :1]), mask], 1).long()  # the first token is the prompt's
        chosen, rejected = reference.sum(1).chunk(2)
        inputs = {"input_ids": 0 * answers, "attention_mask": 0 * answers + 1, "completion_mask": answers}
        inputs |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        trainer = SimpleNamespace(**common, **settings)
        return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)

    def grpo(log_prob: Tensor, ref_log_prob: Tensor) -> Tensor:
        """With no advantage and β = 1 the loss is the divergence."""
        ids = torch.zeros(log_prob.shape, dtype=torch.long)
        settings: dict[str, Any] = dict.fromkeys(("off_policy_mask_threshold", "_entropy_bonus_enabled", "use_vllm"))
        settings |= {
            "beta": 1.0,
            "loss_type": "grpo",
            "importance_sampling_level": "token",
            "top_entropy_quantile": 1.0,
        }
        settings |= {"epsilon_low": 0.2, "epsilon_high": 0.2}
        settings["args"] = SimpleNamespace(delta=None, use_bias_correction_kl=False)
        settings["_get_per_token_logps_and_entropies"] = lambda *_, **__: (log_prob, torch.zeros_like(log_prob), None)
        inputs = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1, "completion_ids": ids}
        inputs |= {"completion_mask": ids + 1, "advantages": torch.zeros(len(ids)), "ref_per_token_logps": ref_log_prob}
        trainer = SimpleNamespace(**common, **settings)
        return GRPOTrainer._compute_loss(trainer, None, inputs)

    return with_torch({"dpo": dpo, "grpo": grpo})
