"""Quantities as Kubernetes writes them."""

import re
from decimal import ROUND_CEILING, Decimal

_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i))?")
_FACTORS = (
    {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1)}
    | {unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)}
    | {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)}
)


class InvalidQuantity(ValueError):
    """A text is no quantity. The message says so, with the text."""


def parse_quantity(text: str) -> Decimal:
    """The value of a quantity such as ``500m``, ``1.5Gi`` or ``1e9``.

    Raises:
        InvalidQuantity: it is none.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise InvalidQuantity(f"{text!r} is no quantity such as 500m, 2 or 512Mi")
    number, exponent, unit = found.groups()
    return Decimal(f"{number}{exponent or ''}") * _FACTORS[unit or ""]


def mebibytes(amount: Decimal) -> str:
    """A number of bytes as a quantity of whole MiB, rounded up."""
    return f"{(amount / 1024**2).to_integral_value(ROUND_CEILING)}Mi"
