"""The distillation loss: DIST's relations between classes and between samples, plus a KL term that keeps calibration.

Sources: DIST, Huang et al., NeurIPS 2022, equations 6 to 9 (intra- and inter-class relations by Pearson correlation). T = 1:
a teacher that yields probabilities has no logits to soften. Shape suffixes: B batch, C classes.
"""

import torch
from torch import Tensor

#: Teacher probabilities are clipped before a logarithm: some teachers give exact zeros and ones.
MIN_PROBABILITY = 1e-6
_EPSILON = 1e-8


def distillation_loss(
    student_logits_BC: Tensor, teacher_BC: Tensor, *, relation_weight: float, kl_weight: float
) -> Tensor:
    """Return b (1 - mean rho(rows)) + g (1 - mean rho(columns)) + k KL(teacher || student), a scalar; b = g.

    Args:
        teacher_BC: probabilities, rows sum to 1.
        relation_weight: b and g.
        kl_weight: k.
    """
    student_log_BC = torch.log_softmax(student_logits_BC, dim=1)
    student_BC = student_log_BC.exp()
    rows = 1 - pearson(student_BC, teacher_BC).mean()
    columns = 1 - pearson(student_BC.t(), teacher_BC.t()).mean()
    clipped_BC = teacher_BC.clamp(MIN_PROBABILITY, 1.0)
    forward_kl = (teacher_BC * (clipped_BC.log() - student_log_BC)).sum(dim=1).mean()
    return relation_weight * (rows + columns) + kl_weight * forward_kl


def pearson(left_NM: Tensor, right_NM: Tensor) -> Tensor:
    """Return the correlation of each row of `left_NM` with its row of `right_NM`, [N]; a constant row correlates 0."""
    left = left_NM - left_NM.mean(dim=1, keepdim=True)
    right = right_NM - right_NM.mean(dim=1, keepdim=True)
    correlation_N: Tensor = (left * right).sum(dim=1) / (left.norm(dim=1) * right.norm(dim=1) + _EPSILON)
    return correlation_N
