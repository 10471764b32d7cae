"""What both checks of a posterior come to: counts beside those that an exact one would have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nfbook.diagnostics.uniformity import UniformCounts

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, repr=False)
class Check:
    """How often each of several events happened, for C quantities, and what that says.

    Attributes:
        nominal: The probabilities of the events if the posterior is exact, increasing, `(P,)`.
        counts: How often they happened, `(P, C)`.
        names: What the C columns are.
        num_simulations: The number n of pairs of z and x.
        level: The probability of a false alarm, over all columns together.
    """

    nominal: Tensor
    counts: Tensor
    names: tuple[str, ...]
    num_simulations: int
    level: float

    @property
    def empirical(self) -> Tensor:
        """How often the events happened, as shares of n, `(P, C)`."""
        return self.counts.to(torch.float64) / self.num_simulations

    @property
    def band(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest shares to be expected, each `(P,)`.

        They are simultaneous: if the posterior is exact, the shares of all events and all columns
        lie within, limits included, with probability 1 - level or more.
        """
        lower, upper = self._expected.band(self.level / len(self.names))
        return lower.double() / self.num_simulations, upper.double() / self.num_simulations

    @cached_property
    def p_values(self) -> Tensor:
        """The p-value of each column by itself, `(C,)`."""
        p_values = [self._expected.p_value(counts) for counts in self.counts.unbind(1)]
        return torch.tensor(p_values, dtype=torch.float64)

    @property
    def p_value(self) -> float:
        """The p-value of all columns together: that of the worst, times their number, at most 1."""
        return min(1.0, len(self.names) * float(self.p_values.min()))

    @property
    def passed(self) -> bool:
        """Whether there is no evidence against the posterior: the `p_value` is above the level."""
        return self.p_value > self.level

    def __repr__(self) -> str:
        verdict = "no evidence against" if self.passed else "the posterior is wrong"
        return (
            f"{type(self).__name__}({self.num_simulations} simulations, "
            f"p-value {self.p_value:.2g}: {verdict})"
        )

    @cached_property
    def _expected(self) -> UniformCounts:
        return UniformCounts(self.nominal, self.num_simulations)

    def _draw(self, ax: Axes | None, reference: Tensor) -> Axes:
        """Draw the shares minus a reference, with the band, and name those that leave it."""
        import matplotlib.pyplot as plt

        from nfbook.plotting import COLORS

        if ax is None:
            _, ax = plt.subplots()
        at = self.nominal.numpy()
        lower, upper = (limit - reference for limit in self.band)
        curves = self.empirical - reference[:, None]
        ax.fill_between(
            at, lower.numpy(), upper.numpy(), color=COLORS["muted"], alpha=0.25, linewidth=0
        )
        ax.plot(at, (self.nominal - reference).numpy(), color=COLORS["muted"], linewidth=1.0)
        outside = ((curves < lower[:, None]) | (curves > upper[:, None])).any(0).tolist()
        # Those outside last, on top of the others.
        for column in sorted(range(len(self.names)), key=outside.__getitem__):
            curve = curves[:, column]
            color = COLORS["estimate" if outside[column] else "posterior"]
            ax.plot(at, curve.numpy(), color=color, linewidth=1.4 if outside[column] else 0.8)
            if outside[column]:
                worst = int((self.empirical[:, column] - self.nominal).abs().argmax())
                where = (float(at[worst]), float(curve[worst]))
                ax.annotate(
                    self.names[column],
                    where,
                    xytext=(3, 3),
                    textcoords="offset points",
                    color=color,
                )
        return ax
