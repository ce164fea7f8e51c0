"""The font of all pictures: the one of the charts, which has the letters of many alphabets."""

from pathlib import Path


def font_file() -> Path:
    """Return its file."""
    from matplotlib import get_data_path  # only a picture with text waits for matplotlib

    return Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
