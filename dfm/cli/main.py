"""The command ``dfm``: a table of commands, and completion. No torch is imported, nor Hydra before it is needed."""

import importlib
import os
import sys
from collections.abc import Sequence

from dfm import __version__

COMMANDS = {
    "train": ("train a model", "dfm train experiment=digits_flow"),
    "sample": ("draw samples from a checkpoint", "dfm sample ckpt=latest sampler=heun sampler.steps=18"),
    "encode": ("data to latents along the ODE, and back", "dfm encode ckpt=latest n=64"),
    "decode": ("latents to data, and interpolation", "dfm decode ckpt=latest latents=RUN_OF_ENCODE interpolate=8"),
    "compare": ("the same latents through two models", "dfm compare ckpt=RUN_A other=RUN_B"),
    "check": ("is it the sampler or the network? errors on a known law", "dfm check sampler=heun schedule=vp"),
    "eval": ("how good samples are: Frechet and kernel distance, precision, recall", "dfm eval ckpt=latest n=1000"),
    "nll": ("score held-out data: bits/dim or nats", "dfm nll ckpt=latest"),
}


def main() -> None:
    """Entry point."""
    arguments = sys.argv[1:]
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
    """The commands, a line and an example each."""
    width = max(len(name) for name in COMMANDS)
    lines = [
        f"  {name:<{width}}  {text}\n  {'':<{width}}  e.g. {example}" for name, (text, example) in COMMANDS.items()
    ]
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
    """Hand over to a command. ``-m`` goes first: Hydra's parser fails on it between overrides."""
    sweep = [a for a in arguments if a in ("-m", "--multirun")]
    hand_over(command, [f"dfm {command}", *sweep[:1], *(a for a in arguments if a not in sweep)])


def hand_over(command: str, argv: list[str]) -> None:
    """Import a command and call it with this sys.argv."""
    sys.argv = argv
    name = command if command in ("encode", "decode", "compare") else f"{command}.command"
    importlib.import_module(f"dfm.cli.commands.{name}").main()


def completing(arguments: Sequence[str]) -> bool:
    """Whether the shell asks for completions or for the script that does."""
    return any(a in ("-sc", "--shell-completion") for a in arguments)


def complete(arguments: Sequence[str]) -> None:
    """Answer the shell: commands until one stands on the line, then Hydra's groups and keys of that command."""
    if "query=bash" not in arguments:
        hand_over("train", ["dfm", *arguments])
        return
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        start = words[1] if len(words) == 2 else ""
        print(" ".join(name for name in COMMANDS if name.startswith(start)))
    elif words[1] in COMMANDS:
        # Hydra sees the line as if the command were a program of its own.
        os.environ["COMP_LINE"] = line.replace(f" {words[1]}", "", 1)
        hand_over(words[1], ["dfm", *arguments])
