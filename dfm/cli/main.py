"""The command ``dfm``: the table of commands, help and completion. It never imports torch, and imports Hydra late."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from dfm import __version__
from dfm.cli.settings import COMMANDS
from dfm.cli.surroundings.streams import lasting_streams, restart_in_utf8


def main() -> None:
    """Run the command line. This is the entry point of the program."""
    restart_in_utf8()
    with lasting_streams():
        try:
            dispatch(sys.argv[1:])
        except KeyboardInterrupt:  # while modules are imported
            print("error: interrupted", file=sys.stderr)
            raise SystemExit(130) from None


def dispatch(arguments: Sequence[str]) -> None:
    """Run what the first argument asks for: a command, help, the version or a completion."""
    if completing(arguments):
        complete(arguments)
    elif not arguments or arguments[0] in ("--help", "-h", "help"):
        print(usage())
    elif arguments[0] == "--version":
        print(f"dfm {__version__}")
    elif arguments[0] not in COMMANDS:
        from dfm.basics.errors import unknown

        print(f"error: {unknown('command', arguments[0], COMMANDS)}", file=sys.stderr)
        raise SystemExit(1)
    else:
        run(arguments[0], arguments[1:])


def usage() -> str:
    """Return the list of commands, each with one line of help and an example."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {c.summary}\n  {'':<{width}}  e.g. {c.example}" for name, c in COMMANDS.items()]
    return "\n".join(
        [
            "dfm: train, sample and score diffusion and flow-matching models",
            "",
            *lines,
            "",
            "dfm COMMAND --help lists its groups and keys. GROUP=OPTION and KEY=VALUE set them; -m sweeps over a,b,c.",
            'Completion in bash: eval "$(dfm -sc install=bash)"',
        ]
    )


def run(command: str, arguments: Sequence[str]) -> None:
    """Launch a command on words that Hydra understands: flags first, and values in quotes where it needs them."""
    from dfm.basics.errors import UserError
    from dfm.cli.launch import stop
    from dfm.cli.words.flags import sort_arguments
    from dfm.cli.words.typed_values import quoted

    try:
        found = sort_arguments(command, arguments)
    except UserError as error:
        stop(error)
    if "--version" in found.flags:
        print(f"dfm {__version__}")
        return
    sweep = "--multirun" in found.flags
    words = replace(found, overrides=quoted(command, found.overrides, sweep)).words()
    hand_over(command, [f"dfm {command}", *words])


def hand_over(command: str, argv: list[str]) -> None:
    """Launch a command with this ``sys.argv``."""
    from dfm.cli.launch import launch

    sys.argv = argv
    launch(command)


def completing(arguments: Sequence[str]) -> bool:
    """Whether the shell asks for completions, or the user for the script that does."""
    return any(a in ("-sc", "--shell-completion") for a in arguments)


def complete(arguments: Sequence[str]) -> None:
    """Print completions: the commands, or, after a command, its groups and keys as Hydra completes them."""
    if "query=bash" not in arguments:
        hand_over("train", ["dfm", *arguments])
        return
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        start = words[1] if len(words) == 2 else ""
        print(" ".join(name for name in COMMANDS if name.startswith(start)))
    elif words[1] in COMMANDS:
        from dfm.cli.composition.config_dirs import named_config_dirs

        # Hydra must see a line without the command, and the directory of the user's own YAML files as an argument.
        os.environ["COMP_LINE"] = line.replace(f" {words[1]}", "", 1)
        own = [text for path in named_config_dirs(words[2:])[:1] for text in ("--config-dir", path)]
        hand_over(words[1], ["dfm", *own, *arguments])
