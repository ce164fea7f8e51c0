"""``dfm data``: what is in a data set, what the network sees of it, and which settings suit it."""

from typing import Any

from dfm.basics.errors import UserError
from dfm.basics.files import write_json
from dfm.cli import console
from dfm.cli.commands.data.suited import suited
from dfm.cli.commands.data.survey import survey
from dfm.cli.job import Job
from dfm.cli.settings import DataSettings
from dfm.data.dataset import SPLITS
from dfm.data.numbers.dequantization import UniformDequantization
from dfm.runs.pictures.images import save_png
from dfm.runs.pictures.training_examples import what_is_seen
from dfm.training.batches import Augmentation, Batches

ROWS = 20  # of a table; data.json has all
SEED, BATCH = 0, 256  # of the order in which examples are shown


def run(job: Job) -> None:
    """Read a data set, print what is found, and write ``data.json`` and ``data.png``.

    Raises:
        UserError: the data cannot be read, or no model can be trained on them.
    """
    wanted: DataSettings = job.settings
    if wanted.n is not None and wanted.n < 1:
        raise UserError(f"n={wanted.n}; allowed: at least 1, or null")
    data = job.parts.dataset
    console.say(f"reading the data: {job.choice('dataset')}")
    facts = survey(data, wanted.duplicates)
    console.notices(data.all_notices)
    facts |= suited(job, data)
    report(facts)
    batches = Batches(data.split("train"), BATCH, SEED)
    how = (Augmentation(flip=data.flip), UniformDequantization(), data.spec)
    seen = what_is_seen(batches, *how, n=wanted.n)
    save_png(seen, job.directory / "data.png")
    write_json(job.directory / "data.json", facts)
    console.result(f"what the network sees: {job.directory / 'data.png'}")
    console.result(f"to train on these data: {facts['command']}")
    if facts["command_with_classes"]:
        console.result(f"to train on them with their classes: {facts['command_with_classes']}")


def report(facts: dict[str, Any]) -> None:
    """Print the tables of what was found."""
    shape, levels = "x".join(map(str, facts["shape"])), facts["levels"]
    what = f"{facts['type']}, {levels} levels from {facts['lowest']}" if levels else facts["type"]
    table(
        f"{facts['dataset']}: examples of {shape} numbers ({what}); {size(facts['bytes_an_example'])} each, "
        f"{size(facts['bytes'])} together, {place(facts['mapped_from'])}",
        ("split", "examples", "repeated in it", "also in train"),
        [
            (name, *(number(facts["splits"][name].get(key)) for key in ("examples", "duplicates", "also_in_train")))
            for name in SPLITS
        ],
    )
    for name in SPLITS[1:]:
        if count := facts["splits"][name].get("also_in_train"):
            console.warn(f"{count:,} of the {name} examples stand in train too: scores on them are too good")
    if facts["classes"]:
        rows = [
            (str(row["label"]), row["name"] or "", *(number(row[name]) for name in SPLITS)) for row in facts["classes"]
        ]
        table(f"{len(rows)} classes", ("label", "name", *SPLITS), rows)
        if empty := [row["name"] or str(row["label"]) for row in facts["classes"] if not row["train"]]:
            console.warn(f"no training example of {len(empty)} classes: {', '.join(empty[:5])}")
    keys = ("lowest", "highest", "mean", "deviation")
    kind = "column" if len(facts["shape"]) == 1 else "channel"
    rows = [(row["name"] or str(k), *(f"{row[key]:.6g}" for key in keys)) for k, row in enumerate(facts["channels"])]
    table("training examples, in the unit of the file", (kind, *keys), rows)
    if facts["found"]:
        table("found in the files", ("what", "value"), [(str(key), text(v)) for key, v in facts["found"].items()])
    table("what dfm train takes for them", ("key", "value"), [(k, text(v)) for k, v in facts["settings"].items()])
    if facts["told"]:
        console.result(facts["told"])
    if facts["refused"]:
        console.warn(f"this network does not take them: {facts['refused']}")
    if facts["mirrored"]:
        console.result(mirrored_line(facts["mirrored"], facts["flip"]))


def place(files: list[str]) -> str:
    """Return where the examples are while a model is trained."""
    if not files:
        return "in memory"
    return f"mapped from {files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}"


def mirrored_line(found: dict[str, Any], on: bool) -> str:
    """Return what the test of mirror images says."""
    said = {
        True: "mirroring suits (dataset.flip=true)",
        False: "mirroring does not suit (dataset.flip=false)",
        None: "this does not tell whether mirroring suits",
    }[found["suits"]]
    share = f"{found['share']:.0%} +- {found['stderr']:.0%} of {found['examples']} examples are nearer to the others"
    return f"{share} when mirrored, where 50% means no difference: {said}; now it is {'on' if on else 'off'}"


def table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table of at most ``ROWS`` rows, and how many there are more."""
    more = [(f"... {len(rows) - ROWS} more", *[""] * (len(columns) - 1))] if len(rows) > ROWS else []
    console.table(title, columns, [*rows[:ROWS], *more])


def number(value: int | None) -> str:
    """Return a count for a table; a dash for one that was not counted."""
    return "-" if value is None else f"{value:,}"


def text(value: Any) -> str:
    """Return a value as one types it, with commas between thousands of a count."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def size(count: int) -> str:
    """Return a number of bytes in the unit that suits it."""
    step, unit = next(((2**k, u) for k, u in ((30, "GiB"), (20, "MiB"), (10, "KiB")) if count >= 2**k), (1, "bytes"))
    return f"{count / step:.1f} {unit}" if step > 1 else f"{count} {unit}"
