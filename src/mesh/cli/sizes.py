"""Sizes as people write them."""

import re
from typing import Any

import click

_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class Size(click.ParamType[int]):
    """Bytes, written as a number with a binary unit: ``512MiB``, ``8G``, ``1.5TiB``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `click.ParamType`."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9.]+)\s*([kmgtb]?)(?:i?b)?", str(value).strip().lower())
        try:
            size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
        except ValueError:
            size = 0
        if size < 1:
            self.fail(f"{value!r} is no size: write a number and a unit, such as 512MiB or 8GiB", param, ctx)
        return size


SIZE = Size()
