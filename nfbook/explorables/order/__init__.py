"""The order: which numbers of a layer depend on which, and how many passes it takes."""

from __future__ import annotations

from nfbook.explorables.base import Choice, Explorable, Real

__all__ = ["OrderExplorable"]


class OrderExplorable(Explorable, module="order"):
    r"""Five numbers that go through an autoregressive layer, in a chosen order.

    Its network sees numbers u and says how each is shifted and scaled,

    .. math:: v_i = e^{s_i} u_i + m_i, \qquad s_i = \sum_{j \prec i} B_{ij} \tanh u_j, \qquad
        m_i = \sum_{j \prec i} A_{ij} \sin u_j,

    where :math:`j \prec i` means that j comes before i in the order. From u to v takes one pass
    through the network, from v to u up to five, since each pass sees only what was found before. A
    MAF has the data as u, an IAF has the noise; so what takes one pass in a MAF, scoring, takes
    five in an IAF, and the other way round.

    The figure shows what each number depends on, and what is known after each pass, from zeros at
    the start. In a live session the values can be read and set here.

    Attributes:
        order: The numbers in their order, one of four.
        task: "MAF scores", "MAF samples", "IAF samples" or "IAF scores".
        passes: How many passes were made, from "0" to "5".
        number: The number whose dependence is shown, from "1" to "5".
        value: What goes in for that number, from -2 to 2.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: ``value`` lies outside its range, or a word is none of those above.

    Example:
        >>> figure = OrderExplorable(task="MAF samples", passes="2")
        >>> figure.passes = "3"
        >>> figure
        OrderExplorable(order='1 2 3 4 5', task='MAF samples', passes='3', number='2', value=1.0)
    """

    order = Choice("1 2 3 4 5", "5 4 3 2 1", "3 1 5 2 4", "2 4 1 3 5").tag(sync=True)
    task = Choice("MAF scores", "MAF samples", "IAF samples", "IAF scores").tag(sync=True)
    passes = Choice("0", "1", "2", "3", "4", "5").tag(sync=True)
    number = Choice("1", "2", "3", "4", "5").tag(sync=True)
    value = Real(-2.0, 2.0).tag(sync=True)

    def __init__(
        self,
        *,
        order: str = "1 2 3 4 5",
        task: str = "MAF scores",
        passes: str = "1",
        number: str = "2",
        value: float = 1.0,
    ) -> None:
        super().__init__(order=order, task=task, passes=passes, number=number, value=value)
