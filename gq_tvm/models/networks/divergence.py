"""How far a student's scores are from its teacher's (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

from torch import Tensor


def divergence(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Mean KL divergence, in nats, of softmax(teacher) from softmax(student).

    Args:
        student: logits f32 [..., V].
        teacher: logits f32 [..., V]; no gradient reaches them.
        real: bool [...]; others are padding.
    """
    goal = teacher.detach().log_softmax(-1)
    apart = (goal.exp() * (goal - student.log_softmax(-1))).sum(-1)
    return (apart * real).sum() / real.sum()
