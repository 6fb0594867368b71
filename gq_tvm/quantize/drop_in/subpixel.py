"""A transposed convolution as the sub-pixel convolution it is.

With a stride of s its outputs are those of s convolutions of stride 1, one a phase, that read the
same frames (Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv
1609.07009). So its weight is that of one convolution with outputs for each phase, which are laid
behind each other in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class SubpixelConv1d(nn.Conv1d):
    """What ``nn.ConvTranspose1d`` of C inputs, N outputs, k taps and stride s becomes.

    The weight is f32 [s * N, C, k / s], the bias f32 [s * N], one phase behind the other: frames of
    all channels are so the frames of the phases as they lie. ``phases`` is s, ``crop`` what is cut
    off the outputs' two ends.
    """

    phases: int
    crop: tuple[int, int]

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """As ``nn.ConvTranspose1d``: f32 [B, C, T] or [C, T] -> f32 [B, N, L] or [N, L].

        Raises:
            ValueError: ``output_size`` cannot be that of an output.
        """
        by_phase = super().forward(input).transpose(-1, -2).unflatten(-1, (self.phases, -1))
        frames = by_phase.flatten(-3, -2)
        first, last = self.crop
        if output_size is not None:
            last = frames.shape[-2] - first - output_size[-1]
            if not 0 <= last <= first < last + self.phases:
                least = frames.shape[-2] - 2 * first
                raise ValueError(
                    f"output_size must be {least} to {least + min(self.phases - 1, first)}, "
                    f"got {output_size[-1]}."
                )
        return frames[..., first : frames.shape[-2] - last, :].transpose(-1, -2)


def obstacle(layer: nn.ConvTranspose1d) -> str | None:
    """Why a layer is no sub-pixel convolution with a weight of its own."""
    (taps,), (stride,), (dilation,) = layer.kernel_size, layer.stride, layer.dilation
    padding, more = layer.padding[0], layer.output_padding[0]
    assert isinstance(padding, int)
    if layer.groups > 1:
        return "a ConvTranspose1d in groups is not supported"
    if dilation > 1:
        return "a ConvTranspose1d with dilation is not supported"
    if taps % stride:
        return "a ConvTranspose1d whose taps are no multiple of its stride is not supported"
    if more > padding:
        return "a ConvTranspose1d with more output_padding than padding is not supported"
    return None


def values(layer: nn.ConvTranspose1d, weight: Tensor) -> dict[str, Tensor]:
    """The weight [C, N, k] and bias of a layer as ``SubpixelConv1d`` has them, by attribute."""
    (stride,) = layer.stride
    inputs, outputs, taps = weight.shape
    by_phase = weight.reshape(inputs, outputs, taps // stride, stride).flip(2)
    found = {"weight": by_phase.permute(3, 1, 0, 2).reshape(stride * outputs, inputs, -1)}
    if layer.bias is not None:
        found["bias"] = layer.bias.repeat(stride)
    return found


def become(layer: Any) -> None:
    """Make a ``SubpixelConv1d`` of a layer that has its weight and bias already."""
    (layer.phases,), (padding,), (more,) = layer.stride, layer.padding, layer.output_padding
    outputs, _, taps = layer.weight.shape
    layer.__class__ = SubpixelConv1d
    layer.crop = (padding, padding - more)
    layer.out_channels, layer.kernel_size, layer.stride = outputs, (taps,), (1,)
    layer.padding, layer.output_padding, layer.transposed = (taps - 1,), (0,), False
    layer._reversed_padding_repeated_twice = [taps - 1] * 2
