"""Figures whose sliders call Python: the sliders work in a live session, the picture everywhere."""

from __future__ import annotations

import inspect
import traceback
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from nfbook._checks import check_callable, check_type

__all__ = ["Controls", "LiveFigure"]

# Jupyter's name for "the widget with this id"; a live session prefers it to all other forms.
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class LiveFigure:
    r"""A figure that is drawn anew, by Python, whenever one of its sliders moves.

    Two cells show it. One ends with the object itself, which is the picture; the next one with
    its ``controls``, which are the sliders. In a live session both are widgets. A static page has
    no Python to call, so there the first shows the picture as it was last drawn, like any other
    figure with caption and alternative text from the cell's metadata, and the second shows a
    sentence with the way to a live session.

    An error in ``draw`` is raised when the cell runs. When a slider moved, it is shown in the
    picture's place until a value that works is chosen.

    Arguments:
        draw: Takes the sliders' values by name and returns a new ``matplotlib`` figure. The
            figure is closed after it has been drawn.
        still: The values of the picture on the static page, by name.
        values: For each slider, by the name of ``draw``'s argument, the numbers or strings that
            it steps through. An underscore in the name is shown as a space.

    Raises:
        TypeError: ``draw`` is not a function of the named sliders or returns no figure, or the
            values of a slider are not a list, tuple or range of numbers or strings.
        ValueError: There is no slider; a slider has fewer than two values, one of them twice or
            NaN; or ``still`` does not give each slider one of its values.

    Example:
        >>> def power(degree):
        ...     figure, axes = plt.subplots()
        ...     axes.plot([x**degree for x in range(10)])
        ...     return figure
        >>> live = LiveFigure(power, still={"degree": 2}, degree=range(1, 6))
        >>> live.sliders["degree"].value = 3  # the picture is drawn anew
        >>> live
        LiveFigure(degree=3)
    """

    def __init__(
        self, draw: Callable[..., Figure], *, still: Mapping[str, Any], **values: Sequence[Any]
    ) -> None:
        _check_values(values)
        _check_still(still, values)
        _check_draw(draw, still)
        self._draw = draw
        self.sliders = {name: _slider(name, values[name], still[name]) for name in values}
        self.png = self._render()
        self.picture = ipywidgets.HTML(self._image())
        self.controls = Controls(self)
        for slider in self.sliders.values():
            slider.observe(self._redraw, names="value")

    @property
    def values(self) -> dict[str, Any]:
        """The sliders' present values by name."""
        return {name: slider.value for name, slider in self.sliders.items()}

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"{type(self).__name__}({values})"

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, Any]:
        png = b64encode(self.png).decode()
        return _bundle(self.picture, {"text/plain": repr(self), "image/png": png})

    def _render(self) -> bytes:
        """Call ``draw`` with the present values and return its figure as a PNG."""
        already_open = set(plt.get_fignums())
        try:
            figure = self._draw(**self.values)
            check_type("draw's result", figure, Figure, "a matplotlib Figure")
            buffer = BytesIO()
            # The library's version in the file would make equal pictures differ.
            figure.savefig(buffer, format="png", metadata={"Software": None})
            return buffer.getvalue()
        finally:
            for number in set(plt.get_fignums()) - already_open:
                plt.close(number)

    def _redraw(self, change: object) -> None:
        try:
            self.png = self._render()
        except Exception:
            # Nobody catches what a slider's callback raises, so the reader is shown it here.
            self.picture.value = f'<pre role="alert">{escape(traceback.format_exc())}</pre>'
        else:
            self.picture.value = self._image()

    def _image(self) -> str:
        return (
            f'<img alt="The figure for {escape(self.settings())}" style="max-width: 100%" '
            f'src="data:image/png;base64,{b64encode(self.png).decode()}">'
        )

    def settings(self) -> str:
        """Return the sliders' present values in words."""
        return _listing([f"{s.description} = {s.label}" for s in self.sliders.values()])


class Controls:
    """The sliders of a `LiveFigure`, or on a static page the way to a session where they work.

    Raises:
        TypeError: ``figure`` is no `LiveFigure`.

    Example:
        >>> def line(slope):
        ...     figure, axes = plt.subplots()
        ...     axes.plot([0, slope])
        ...     return figure
        >>> LiveFigure(line, still={"slope": 1}, slope=[1, 2]).controls
        Sliders: slope
    """

    def __init__(self, figure: LiveFigure) -> None:
        check_type("figure", figure, LiveFigure, "a LiveFigure")
        self.figure = figure
        self.widget = ipywidgets.VBox(list(figure.sliders.values()))

    def __repr__(self) -> str:
        return f"Sliders: {self._names()}"

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, Any]:
        many = len(self.figure.sliders) > 1
        text = (
            f"*The picture shows {self.figure.settings()}. The slider{'s' * many} for "
            f"{self._names()} need{'s' * (not many)} Python: open this page in a "
            "[live session](#live-sessions), by its Binder or Colab button or on "
            "your own machine, and run its cells.*"
        )
        return _bundle(self.widget, {"text/plain": repr(self), "text/markdown": text})

    def _names(self) -> str:
        return _listing([slider.description for slider in self.figure.sliders.values()])


def _bundle(widget: ipywidgets.DOMWidget, stand_in: dict[str, str]) -> dict[str, Any]:
    """Return a widget's live view together with what a static page shows in its place."""
    return stand_in | {WIDGET_VIEW: widget._repr_mimebundle_()[WIDGET_VIEW]}


def _listing(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _slider(name: str, values: Sequence[Any], value: object) -> ipywidgets.SelectionSlider:
    return ipywidgets.SelectionSlider(
        options=[(f"{v:g}" if isinstance(v, float) else str(v), v) for v in values],
        value=value,
        description=name.replace("_", " "),
        style={"description_width": "initial"},
    )


def _check_values(values: Mapping[str, object]) -> None:
    if not values:
        raise ValueError("at least one slider must be given, for example degree=range(1, 9)")
    for name, options in values.items():
        if not isinstance(options, list | tuple | range):
            raise TypeError(
                f"{name} must be a list, tuple or range of values, got {type(options).__name__}"
            )
        if len(options) < 2:
            raise ValueError(f"{name} must hold at least two values, got {len(options)}")
        for option in options:
            check_type(f"every value of {name}", option, int | float | str, "a number or a string")
            if option != option:
                raise ValueError(f"{name} must not hold NaN, which is equal to no value")
        if len(set(options)) < len(options):
            raise ValueError(f"{name} must hold each value once, got {options}")


def _check_still(still: object, values: Mapping[str, Sequence[Any]]) -> None:
    if not isinstance(still, Mapping):
        raise TypeError(f"still must be a dictionary, got {type(still).__name__}")
    if set(still) != set(values):
        raise ValueError(
            f"still must give a value to {_listing(list(values))}, "
            f"got {', '.join(map(str, still)) or 'none'}"
        )
    for name, value in still.items():
        if not isinstance(value, int | float | str) or value not in values[name]:
            raise ValueError(f"still: {name} must be one of {values[name]}, got {value!r}")


def _check_draw(draw: Callable[..., Figure], still: Mapping[str, Any]) -> None:
    check_callable("draw", draw)
    try:
        inspect.signature(draw).bind(**still)
    except (TypeError, ValueError) as error:
        raise TypeError(f"draw must take the sliders by name: {error}") from error
