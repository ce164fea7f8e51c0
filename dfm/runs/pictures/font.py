"""The font of all pictures: the one of the charts, which has the letters of many alphabets.

Only a picture with text waits for matplotlib.
"""

from functools import cache
from pathlib import Path


def font_file() -> Path:
    """Return its file."""
    from matplotlib import get_data_path

    return Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def font_letters() -> frozenset[int]:
    """Return the code points that it has."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(font_file())).get_charmap())
