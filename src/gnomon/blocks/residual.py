"""A residual connection that says in its structure what usually hides in a `forward`."""

from torch import Tensor, nn


class Residual(nn.Module):
    """Adds what the body computes to what the shortcut passes.

        x ──┬── body ──────┐
            └── shortcut ──+── activation ── y        y = activation(shortcut(x) + body(x))

    Without a shortcut x itself is added; without an activation the sum is the output.
    """

    def __init__(
        self,
        body: nn.Module,
        shortcut: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        # `is None`, not `or`: an empty `nn.Sequential` is false.
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.activation = nn.Identity() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        """Return activation(shortcut(x) + body(x))."""
        y: Tensor = self.activation(self.shortcut(x) + self.body(x))
        return y
