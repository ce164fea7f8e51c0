"""``resume=``: continue a run where it stopped, with its own configuration. Only what changes no number may change."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from dfm.basics.errors import UserError
from dfm.cli.composition.command_line import choices, overrides, variant
from dfm.cli.composition.resumable_keys import CHANGEABLE_GROUPS, may_change
from dfm.cli.composition.stored_run import OF_THE_COMMAND_LINE, chosen_groups, read_config
from dfm.cli.words.own_code import key_of
from dfm.cli.words.printed_command import printed, setting, typed
from dfm.runs.directory import checkpoints, is_run, latest_run, outputs, run_of
from dfm.runs.parts import Parts
from dfm.runs.places import absolute, movable_keys, with_absolute_places

# A change of these gives the weights another meaning, so that another run cannot start with them (``init=``).
OF_THE_WEIGHTS = ("model", "prediction", "schedule", "prior", "latent", "objective", "dataset", "conditional")
Config = dict[str, Any]
Change = tuple[Any, Any]


def with_absolute_paths(config: Config, trusted: Sequence[str]) -> Config:
    """Return a configuration whose relative paths start where the command was typed, as a run stores them."""
    here = Path(HydraConfig.get().runtime.cwd)
    init = config.get("init")
    if init and init != "latest" and (here / init).exists():  # a message on another one quotes what was typed
        config = {**config, "init": absolute(init, here)}
    decoder = config.get("decoder") or {}
    if "path" in decoder:
        config = {**config, "decoder": {**decoder, "path": absolute(decoder["path"], here)}}
    return with_absolute_places(config, trusted, here)


def with_settled_init(config: Config) -> Config:
    """Return the configuration of a fresh run with the run that ``init=latest`` means now: later it is another one."""
    return {**config, "init": str(latest_run(outputs()).absolute())} if config.get("init") == "latest" else config


def resumed_config(directory: Path, config: Config, trusted: Sequence[str]) -> Config:
    """Return the configuration of the run in ``directory`` with the changes of the command line.

    Args:
        config: the configuration that the command line composed.
        trusted: the packages whose data sets may say what their places are.

    Raises:
        UserError: there is no run, or the command line changes a key that must stay.
    """
    if directory.is_file() and is_run(run := run_of(directory)):
        raise UserError(
            f"resume={directory}: a file of a run; allowed: its directory, which goes on from the newest one; "
            f"try {typed('resume', run)}"
        )
    if not is_run(directory):
        raise UserError(
            f"resume={directory}: no config.yaml in it; allowed: the directory of a training run, or resume=auto with "
            "hydra.run.dir=DIR"
        )
    named = named_parts()
    stored = read_config(directory)
    keys = override_keys().union(*named.values())
    changes = find_changes(stored, config, keys - {*CHANGEABLE_GROUPS})
    other = changes.keys() - changeable_keys(changes, stored, trusted)
    for text, groups in named.items():
        strange = [name for name in groups if any(key.startswith(f"{name}.") for key in other)]
        if (strange or group_of(text) not in stored) and group_of(text) not in CHANGEABLE_GROUPS:
            raise refusal(
                f"resume={directory}: the run keeps its own parts, and {text} is given",
                directory,
                stored,
                {group_of(text), *other},
            )
    whole = {*map(group_of, named)} & {*CHANGEABLE_GROUPS}
    return merge(directory, config, changes, f"resume={directory}: the run keeps its own settings", trusted, whole)


def auto_config(directory: Path, config: Config, trusted: Sequence[str]) -> Config:
    """Return the composed configuration for a fresh run, or the stored one if ``directory`` has a run already.

    A cluster's requeue repeats the whole command line, so the composed configuration must equal the stored one. A run
    of an older dfm may lack some keys; they are added only if the command line names them.

    Raises:
        UserError: the directory changes at every start, or the configuration is not the run's.
    """
    about_hydra = HydraConfig.get().overrides.hydra
    if not any(text.split("=")[0] in ("hydra.run.dir", "hydra.sweep.dir") for text in about_hydra):
        raise UserError(
            "resume=auto: without a directory; allowed: hydra.run.dir=DIR beside it, or hydra.sweep.dir=DIR with -m"
        )
    if not (is_run(directory) and checkpoints(directory)):
        return {**config, "resume": None}
    stored = read_config(directory)
    config = _as_begun(stored, config)
    keys = override_keys() & dict(leaves(config)).keys()
    changes = {**find_changes(stored, config, None), **find_changes(stored, config, keys)}
    if config.get("init") == "latest":  # it was the latest one when the run started
        changes.pop("init", None)
    # a key that may change does so only if the user names it; a default that is new since then is no change
    free = changeable_keys(changes, stored, trusted)
    wanted = {key: pair for key, pair in changes.items() if key not in free or key in override_keys()}
    named = {name for name in CHANGEABLE_GROUPS if name in override_keys()}
    return merge(directory, config, wanted, f"resume=auto: {directory} holds another run", trusted, named)


def _as_begun(stored: Config, config: Config) -> Config:
    """Return the configuration composed without a recipe if the run was begun so, by a dfm that had no recipes."""
    if choices().get("recipe", "none") == "none":
        return config
    older = variant("train", "recipe=none")
    return min(config, older, key=lambda composed: len(find_changes(stored, composed, None)))


def named_parts() -> dict[str, set[str]]:
    """Return {GROUP=OPTION of the command line: the groups whose options it chooses}.

    ``objective=noise`` chooses ``prediction=noise`` too.
    """
    words = [text for text in overrides() if group_of(text) in choices()]
    return {text: {group_of(text), *chosen_groups([text])} for text in words}


def group_of(text: str) -> str:
    """Return the group that an override names, without the place of the option."""
    return key_of(text).partition("@")[0]


def override_keys() -> set[str]:
    """Return the keys and groups that the command line names."""
    return set(map(key_of, overrides()))


def changeable_keys(keys: Collection[str], stored: Config, trusted: Sequence[str]) -> set[str]:
    """Return those of the dotted keys that may change on resume: they change no number of the training."""
    movable = movable_keys(stored, trusted)
    return {key for key in keys if key in movable or may_change(key)}


def find_changes(stored: Config, config: Config, keys: set[str] | None) -> dict[str, Change]:
    """Return {dotted key: (the run's value, the composed value)} for the keys that differ.

    Args:
        keys: the keys to compare, with all keys below them; None for all keys of the run.
    """
    before, now = dict(leaves(stored)), dict(leaves(config))
    changes: dict[str, Change] = {}
    for key in before if keys is None else {**before, **now}:
        wanted = keys is None or any(key == name or key.startswith(f"{name}.") for name in keys)
        strange = key.split(".")[0] not in OF_THE_COMMAND_LINE
        if wanted and strange and before.get(key) != now.get(key, before.get(key)):
            changes[key] = (before.get(key, "not there"), now.get(key))
    return changes


def leaves(node: Config, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for every value in plain containers that is not a mapping."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def merge(
    directory: Path, config: Config, changes: dict[str, Change], problem: str, trusted: Sequence[str], named: set[str]
) -> Config:
    """Return the stored configuration with the changes. The value of ``trust`` comes from the command line only.

    Args:
        named: groups that are taken from ``config`` as a whole.

    Raises:
        UserError: a key changes that must stay. The message starts with ``problem``.
    """
    stored = read_config(directory)
    forbidden = {key: changes[key] for key in changes.keys() - changeable_keys(changes, stored, trusted)}
    if forbidden:
        pairs = [f"{key} is {old}, given {new}" for key, (old, new) in sorted(forbidden.items())[:3]]
        more = f" and {len(forbidden) - 3} more" if len(forbidden) > 3 else ""
        raise refusal(f"{problem}: {', '.join(pairs)}{more}", directory, stored, {*forbidden})
    result = stored
    for key, (_, new) in changes.items():
        *path, last = key.split(".")
        node = result
        for name in path:
            node = node.setdefault(name, {})
        node[last] = new
    whole = {name: config[name] for name in named}
    return {**result, **whole, "resume": str(directory), "trust": config.get("trust")}


def refusal(problem: str, directory: Path, stored: Config, changed: set[str]) -> UserError:
    """Return the error for changes that a resumed run cannot take: it names the command of a new run that takes them.

    Args:
        changed: the keys and groups that differ.
    """
    words = [text for text in overrides() if concerns(text, changed)]
    if not words:
        return UserError(f"{problem}; allowed: the settings of the run; try another hydra.run.dir=DIR")
    start = [setting("init", directory)] if keeps_weights(words, stored) else []
    command = printed("train", setting("from", directory), *start, *words)
    how = "with its weights and the new settings" if start else "from the beginning, since the weights would not fit"
    return UserError(f"{problem}; allowed here: length, intervals, device, places; for a new run {how}, try {command}")


def concerns(text: str, changed: set[str]) -> bool:
    """Whether an override sets one of these keys, or chooses a group that holds one of them."""
    key = key_of(text)
    if key in OF_THE_COMMAND_LINE:
        return False
    names = {key, *chosen_groups([text])}
    return any(name == other or other.startswith(f"{name}.") for name in names for other in changed)


def keeps_weights(words: Sequence[str], stored: Config) -> bool:
    """Whether a run with these changes can start with the weights of the stored run (``init=``)."""
    tops = {key_of(word).split(".")[0].partition("@")[0] for word in words} | chosen_groups(words)
    return not tops & {*OF_THE_WEIGHTS} and not needs_teacher(stored)


def needs_teacher(stored: Config) -> bool:
    """Whether the run is a student of a teacher: then ``init=`` means the teacher."""
    try:
        return Parts(stored).objective.needs_teacher
    except UserError:  # a class of the user's own
        return stored.get("init") is not None
