"""What the interactive figures share on Python's side."""

from __future__ import annotations

import json
from html import escape
from typing import Any, ClassVar

import anywidget
import traitlets

from nfbook._checks import check_count, check_type
from nfbook.explorables import _source

__all__ = ["Choice", "Count", "Explorable", "Real"]

Bundle = tuple[dict[str, Any], dict[str, Any]] | None

WITHOUT_SCRIPT = "The interactive figure appears here when the cell is run, or when scripts are on."


class Real(traitlets.TraitType[float, float]):
    """A number between two bounds, both allowed.

    Example:
        >>> class Figure(traitlets.HasTraits):
        ...     width = Real(0, 10)
        >>> Figure(width=11)
        Traceback (most recent call last):
        ...
        ValueError: width must lie between 0 and 10, got 11
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__(default_value=low)
        self.low, self.high = low, high

    def validate(self, obj: object, value: object) -> float:
        """Return the number, or raise an error that names the argument."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{self.name} must be a number, got {type(value).__name__}")
        if not self.low <= value <= self.high:
            raise ValueError(
                f"{self.name} must lie between {self.low:g} and {self.high:g}, got {value:g}"
            )
        return float(value)


class Count(traitlets.TraitType[int, int]):
    """A whole number from 0 to ``high``.

    Example:
        >>> class Figure(traitlets.HasTraits):
        ...     heads = Count(50)
        >>> Figure(heads=7).heads
        7
    """

    def __init__(self, high: int) -> None:
        super().__init__(default_value=0)
        self.high = high

    def validate(self, obj: object, value: object) -> int:
        """Return the number, or raise an error that names the argument."""
        name = str(self.name)
        check_count(name, value, minimum=0)
        assert isinstance(value, int)
        if value > self.high:
            raise ValueError(f"{name} must be at most {self.high}, got {value}")
        return value


class Choice(traitlets.TraitType[str, str]):
    """One of the given words.

    Example:
        >>> class Figure(traitlets.HasTraits):
        ...     theme = Choice("light", "dark")
        >>> Figure(theme="blue")
        Traceback (most recent call last):
        ...
        ValueError: theme must be one of 'light', 'dark', got 'blue'
    """

    def __init__(self, *words: str) -> None:
        super().__init__(default_value=words[0])
        self.words = words

    def validate(self, obj: object, value: object) -> str:
        """Return the word, or raise an error that names the argument."""
        name = str(self.name)
        check_type(name, value, str, "a str")
        assert isinstance(value, str)
        if value not in self.words:
            words = ", ".join(map(repr, self.words))
            raise ValueError(f"{name} must be one of {words}, got {value!r}")
        return value


class Explorable(anywidget.AnyWidget):
    """An interactive figure that a subclass ties to its JavaScript module.

    The subclass names the module and declares the figure's values as synced traits::

        class CoinExplorable(Explorable, module="coin"): ...

    In a live session the widget is shown. A static page has no use for one, so the MIME bundle
    also holds ``text/html``: a placeholder with the module's name and the values, which
    ``mount.js`` turns into the same figure.

    Example:
        >>> from nfbook.explorables import CoinExplorable
        >>> CoinExplorable(heads=7, tails=3).values()
        {'prior_a': 2.0, 'prior_b': 2.0, 'heads': 7, 'tails': 3}
    """

    module: ClassVar[str]
    value_names: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, *, module: str | None = None) -> None:
        # Without a module it is the subclass that anywidget makes of every instance.
        if module is not None:
            cls.module = module
            cls.value_names = tuple(
                name for name, trait in vars(cls).items() if isinstance(trait, traitlets.TraitType)
            )
            cls._esm = _source.esm(module)
            cls._css = _source.css()
        super().__init_subclass__()

    def values(self) -> dict[str, Any]:
        """Return the figure's values by name."""
        return {name: getattr(self, name) for name in self.value_names}

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.values().items())
        return f"{type(self).__name__}({values})"

    def _repr_html_(self) -> str:
        # A closing tag inside the values would end the script element early.
        values = json.dumps(self.values()).replace("</", "<\\/")
        return (
            f'<div class="nfbook-explorable" data-module="{escape(self.module)}">'
            f'<script type="application/json">{values}</script>'
            f"<p>{WITHOUT_SCRIPT}</p></div>"
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Bundle:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle[0]["text/html"] = self._repr_html_()
        return bundle
