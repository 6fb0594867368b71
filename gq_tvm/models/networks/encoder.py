"""What an encoder is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Encoder(Protocol):
    """A network over frames that hands its state on, so that it streams.

    Called with features f32 [B, T, F] and the state's tensors it returns a projection f32
    [B, T, J] and the new state. A frame's projection depends on that frame and those before only,
    however they are cut into calls. The first state is all zeros.
    """

    def __call__(self, features: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Run over some frames."""

    def state_shapes(self, batch: int) -> dict[str, list[int]]:
        """Shapes of the state's tensors, f32, in the order the call takes them."""
