"""Data sets of Hugging Face's library ``datasets``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dfm.basics.errors import UserError
from dfm.basics.locations import PathText, located
from dfm.data.dataset import SPLITS
from dfm.data.hubs.hub_dataset import HubDataset
from dfm.data.hubs.hugging_face_source import HuggingFaceSource
from dfm.data.hubs.library import library
from dfm.data.hubs.source import Source


@dataclass(frozen=True, kw_only=True, eq=False)
class HuggingFace(HubDataset):
    """A data set that the library ``datasets`` reads: a local one, or one of the hub.

    No code of a data set is ever run, and nothing is fetched unless ``hub`` names it.

    Args:
        path: a folder that ``save_to_disk`` wrote, a folder of parquet, CSV, JSON or picture files, or one such file.
        hub: the name of a data set of the hub, such as ylecun/mnist, in place of ``path``.
        subset: which part of a data set that has several.
        revision: which version of the hub's data set: a branch, a tag or a commit.
        download: whether the hub may be asked; if not, an earlier download counts.
        column: the column of the examples, or a list of columns with numbers; None: the only one that fits.
        labels: the column of the classes; true: the only ClassLabel, or ``label``, if there is one.
        splits: {train, validation, test: name of the split}; None: by its own name.
    """

    path: PathText | None = None
    hub: str | None = None
    subset: str | None = None
    revision: str | None = None
    download: bool = True
    column: str | Sequence[str] | None = None
    splits: Mapping[str, str | None] = field(default_factory=lambda: dict.fromkeys(SPLITS))

    name = "hf"
    sources = ("path",)
    handling = ("num_workers", "download")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.path is None) == (self.hub is None):
            given = "no path" if self.path is None else "path and hub"
            raise UserError(f"dataset hf: {given}; give dataset.path=DIR, a local folder, or dataset.hub=NAME")
        if self.path is not None and not located(self.path).exists():
            raise UserError(
                f"dataset hf: {located(self.path)} is not there; allowed: a local folder or file; a data set of the "
                f"hub is dataset.hub={self.path}"
            )
        if self.revision is not None and self.hub is None:
            raise UserError("dataset hf: revision without hub; allowed: a version of a data set of the hub")
        if self.hub is not None and (self.hub.count("/") > 1 or not self.hub.strip("/.")):
            raise UserError(f"dataset hf: hub={self.hub}; allowed: a name such as ylecun/mnist")
        library()

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
        column = arguments.get("column")
        if isinstance(column, Sequence) and not isinstance(column, str):
            return (len(column),)
        return super().shape_of(arguments)

    @property
    def _is_picture(self) -> bool:
        return self.shape is None and (self.column is None or isinstance(self.column, str))

    @property
    def channel_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns of numbers that are the examples."""
        return () if self._is_picture or isinstance(self.column, str | None) else tuple(self.column)

    def _source(self) -> Source:
        return HuggingFaceSource(
            path=None if self.path is None else located(self.path),
            hub=self.hub,
            subset=self.subset,
            revision=self.revision,
            download=self.download,
            arrays=not self._is_picture,
            column=self.column if self.column is None or isinstance(self.column, str) else list(self.column),
            labels=self.labels,
            splits=self.splits,
            cache=located(self.cache) / "huggingface",
        )
