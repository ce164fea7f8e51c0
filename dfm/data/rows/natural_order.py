"""Natural order: numbers inside names count as numbers, so 2 comes before 10."""

import re


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return the key of a name in natural order. Of names with equal numbers (1, 01) the text decides."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part) for part in parts if part], name
