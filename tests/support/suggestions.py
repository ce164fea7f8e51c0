"""What an error suggests, applied to the command line that provoked it."""

import re
import shlex
from collections.abc import Mapping, Sequence

ADDS = re.compile(r"\? try|needs a|without its|each of shape|without label_dropout")  # the suggestion comes on top
PLACEHOLDER = re.compile(r"^(VALUE|RUN|RUN_DIR|DIR|PATH|OPTION|NAME)$")


def suggestion(message: str) -> str:
    """The first thing that a message tells the user to try."""
    meant = re.search(r"did you mean '([^']+)'\?", message)
    if meant:
        return meant[1]
    found = re.search(r"\btry (.+?)(?:; allowed|$)", message)
    assert found, f"suggests nothing: {message}"
    first = re.split(r",? or (?!$)|, (?=which |set |whose |a run )| for (?=none|a new )", found[1])[0]
    first = re.sub(r"(=\w+)(, \w+)+$", r"\1", first)  # the first of several options
    return first.strip().removeprefix("another ")


def applied(words: Sequence[str], message: str, fill: Mapping[str, str]) -> list[str]:
    """The command line with the suggestion of the message, and the words of ``fill`` for placeholders such as RUN."""
    text = suggestion(message)
    if re.search(r"did you mean", message):
        return with_name(words, message, text)
    if text.startswith("dfm "):
        return filled(shlex.split(text)[1:], fill)
    if text.startswith("without "):
        return without(words, text.removeprefix("without ").strip(), message)
    tokens = shlex.split(text)
    if len(tokens) == 1 and "=" not in tokens[0] and not tokens[0].startswith("-"):  # a value alone
        given = message.removeprefix("error: ").split(":")[0].split(";")[0]
        at = next(i for i, word in enumerate(words) if "=" in word and word.partition("=")[2] in given)
        return [*words[:at], f"{words[at].partition('=')[0]}={tokens[0]}", *words[at + 1 :]]
    if "without" in tokens:
        at = tokens.index("without")
        words, tokens = without(words, " ".join(tokens[at + 1 :]), message), tokens[:at]
    return with_words(list(words), tokens, message, fill)


def filled(words: Sequence[str], fill: Mapping[str, str]) -> list[str]:
    """The words with values in place of placeholders."""
    pairs = [word.partition("=") for word in words]
    return [f"{key}{equals}{fill[value] if PLACEHOLDER.match(value) else value}" for key, equals, value in pairs]


def keeps_plus(message: str) -> bool:
    """Whether the + of a word is not what the message complains of."""
    return not message.startswith("error: +")


def with_words(words: list[str], tokens: Sequence[str], message: str, fill: Mapping[str, str]) -> list[str]:
    """The command line with new words; each takes the place of the word with its key, or of the one in question."""
    tokens = filled(tokens, fill)
    listed = {word.partition("=")[0] for word in words}  # a key keeps the + with which it stood
    tokens = [
        f"+{token}" if f"+{token.partition('=')[0]}" in listed and keeps_plus(message) else token for token in tokens
    ]
    for token in tokens:
        key = token.partition("=")[0]
        words = [word for word in words if word.lstrip("+").partition("=")[0] != key.lstrip("+")]
        words.append(token)
    # the word in question has another key, or is a flag whose value stood beside it
    asked = re.match(r"error: (?:(?:unknown )?key '|unknown flag ')?(\S+?)['=:]", message)
    lacks = ADDS.search(message)
    if tokens and "=" in tokens[0] and asked and not lacks:
        name = asked[1]
        words = [
            w for w in words if w in tokens or w in fill.values() or w.split("=")[0].lstrip("+") != name.lstrip("+")
        ]
    words = [w for w in words if w in tokens or lacks or not message.startswith(f"error: {w}: ")]
    return [w for w in words if w in tokens or w not in [token.partition("=")[2] for token in tokens]]


def without(words: Sequence[str], text: str, message: str) -> list[str]:
    """The command line without the words that the suggestion names; "it" is the word with which the message begins."""
    if text.startswith("it"):
        first = re.match(r"error: (\S+?):? ", message)
        assert first
        names = [first[1].rstrip(":")]
    else:
        names = re.split(r" and |, | ", text)
    kept = [
        w for w in words if not any(w == n or w.partition("=")[0] == n.rstrip("=").partition("=")[0] for n in names)
    ]
    assert len(kept) < len(words), f"{text} is not on the line"
    return kept


def with_name(words: Sequence[str], message: str, name: str) -> list[str]:
    """The command line with the right name in place of the unknown one."""
    given = re.search(r"unknown \S+ '([^']*)'", message)
    assert given
    key = name.partition("=")[0]
    return [
        f"{key}={word.partition('=')[2]}" if word.partition("=")[0] == given[1] and "=" in word
        else word.replace(given[1], name) if given[1] in word else word
        for word in words
    ]  # fmt: skip
