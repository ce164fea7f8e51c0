"""WebDataset: examples in tar files, called shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dfm.basics.errors import UserError
from dfm.basics.locations import PathText
from dfm.data.hubs.hub_dataset import HubDataset
from dfm.data.hubs.shards import Shard, ShardSource, holds_shards, shards_of
from dfm.data.hubs.source import Source


@dataclass(frozen=True, kw_only=True, eq=False)
class WebDataset(HubDataset):
    """Examples in WebDataset shards: pictures, or arrays as ``.npy``, with their classes in ``.cls`` or ``.json``.

    Args:
        path: the shards: a file, a folder, a glob, ``a-{000..012}.tar``, or a list of these.
        validation_path, test_path: those of the other splits. None: shards whose name, or whose folder's, has the word
            val, valid, validation, dev or test; where there are none, a share of the others is drawn.
        member: the ending of the file that is the example, such as jpg; None: the first picture, or npy.
        labels: the ending of the file with the class: cls, or json.KEY for a key of .json; true: cls, if there is one.
    """

    path: PathText | Sequence[str] | None = None
    validation_path: PathText | Sequence[str] | None = None
    test_path: PathText | Sequence[str] | None = None
    member: str | None = None

    name = "webdataset"
    sources = ("path", "validation_path", "test_path")

    @classmethod
    def reads(cls, path: Path) -> bool:
        return holds_shards(str(path))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path is None:
            raise UserError("dataset webdataset: no path; give dataset.path=SHARDS, such as 'a-{000..012}.tar'")
        _ = self._shards

    @cached_property
    def _shards(self) -> list[Shard]:
        assert self.path is not None
        others = [
            shard
            for paths, split in ((self.validation_path, "validation"), (self.test_path, "test"))
            if paths is not None
            for shard in shards_of(paths, self.name, split)
        ]
        return [*shards_of(self.path, self.name), *others]

    def _source(self) -> Source:
        label = self.labels.removeprefix(".") if isinstance(self.labels, str) else "cls" if self.labels else None
        member = None if self.member is None else self.member.lower().removeprefix(".")
        return ShardSource(self._shards, not self._is_picture, member, label, self.labels is True, self.name)
