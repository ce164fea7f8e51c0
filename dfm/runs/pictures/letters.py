"""Texts that the font of the pictures can show: a letter that it lacks would be a box, the same one for all."""

from dfm.runs.pictures.font import font_letters

UNSEEN = "\u200b\u200c\u200d\ufe0e\ufe0f"  # joiners and selectors, which show nothing by themselves


def legible(name: str, instead: str) -> str:
    """Return a name, or what the font can show of it after ``instead``, which tells it from others.

    Args:
        instead: such as ``class 3``, for a name with letters that the font lacks.
    """
    seen = "".join(letter for letter in name if letter not in UNSEEN)
    kept = "".join(letter for letter in seen if ord(letter) in font_letters() or not letter.isprintable())
    if kept == seen and kept.strip():
        return seen
    words = " ".join(kept.split())
    return f"{instead} ({words})" if any(letter.isalnum() for letter in words) else instead
