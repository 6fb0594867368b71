from __future__ import annotations

from functools import cache

import pytest
import torch

from gq_tvm.models.networks.rnnt_loss import rnnt_loss


def brute_force(logits, tokens, blank=0):
    """The sum over all paths, one by one: logits [T, U + 1, V], tokens of length U."""
    scores = logits.double().log_softmax(-1)
    times, columns, _ = scores.shape

    @cache
    def paths(t, u):
        if (t, u) == (times - 1, columns - 1):
            return [scores[t, u, blank]]
        onward = []
        if t < times - 1:
            onward += [scores[t, u, blank] + rest for rest in paths(t + 1, u)]
        if u < columns - 1:
            onward += [scores[t, u, tokens[u]] + rest for rest in paths(t, u + 1)]
        return onward

    return -torch.logsumexp(torch.stack(paths(0, 0)), 0)


@pytest.mark.parametrize(("times", "labels"), [(1, 0), (1, 3), (4, 0), (3, 2), (5, 4)])
def test_equals_the_sum_over_all_paths(times, labels):
    torch.manual_seed(times * 10 + labels)
    logits = 3 * torch.randn(1, times, labels + 1, 6)
    tokens = torch.randint(1, 6, (1, labels))
    loss = rnnt_loss(logits, tokens, torch.tensor([times]), torch.tensor([labels]))
    expected = brute_force(logits[0], tokens[0].tolist())
    torch.testing.assert_close(loss[0].double(), expected, rtol=1e-6, atol=1e-6)


def test_padding_counts_for_nothing():
    torch.manual_seed(0)
    frames, lengths = torch.tensor([5, 3, 4]), torch.tensor([2, 3, 0])
    logits, tokens = torch.randn(3, 5, 4, 7), torch.randint(1, 7, (3, 3))
    logits.requires_grad_()
    loss = rnnt_loss(logits, tokens, frames, lengths)
    for row, (t, u) in enumerate(zip(frames, lengths, strict=True)):
        expected = brute_force(logits[row, :t, : u + 1].detach(), tokens[row, :u].tolist())
        torch.testing.assert_close(loss[row].double(), expected, rtol=1e-6, atol=1e-6)
    loss.sum().backward()
    assert logits.grad is not None
    assert not logits.grad[1, 3:].any()
    assert not logits.grad[2, :, 1:].any()
    assert torch.isfinite(logits.grad).all()


def test_gradient():
    torch.manual_seed(1)
    logits = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([[1, 4], [2, 2]])
    frames, lengths = torch.tensor([4, 3]), torch.tensor([2, 1])
    assert torch.autograd.gradcheck(lambda x: rnnt_loss(x, tokens, frames, lengths), (logits,))


def test_long_targets_keep_their_digits():
    """In float32 the running sums of 300 unlikely labels would be off by 1e-3."""
    torch.manual_seed(2)
    logits, tokens = 10 * torch.randn(1, 40, 301, 8), torch.randint(1, 8, (1, 300))
    sizes = torch.tensor([40]), torch.tensor([300])
    exact = rnnt_loss(logits.double(), tokens, *sizes)
    close = rnnt_loss(logits, tokens, *sizes)
    torch.testing.assert_close(close.double(), exact, rtol=1e-6, atol=0)
