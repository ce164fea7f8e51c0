"""Make a folder of 1,855 emoji in nine classes, pictures of 256x256 with opacity, for ``experiment=emoji_flow``.

    python scripts/make_emoji.py [DIR] [--pictures FILE.tgz] [--names FILE.tgz] [--tones]

DIR is the folder to make; the default is emoji/ in dfm's folder of data, which ``experiment=emoji_flow`` reads. A class
is a folder in it, such as "Food & Drink", and a picture has the name of its emoji: ``Animals & Nature/elephant.webp``.

The pictures are Microsoft's Fluent Emoji (MIT licence) from the npm package @lobehub/fluent-emoji-3d 1.1.0, 16 MB.
Names and groups are Unicode's, from the npm package unicode-emoji-json 0.9.0 (MIT licence), 72 kB. The script has npm
fetch both (``npm pack``), or takes the files that you fetched, and checks their hashes. Nothing in them is run.
The other 1,520 emoji are the same ones in five more tones of skin. They are left out, because near copies of training
pictures would be test pictures; ``--tones`` keeps them. Sixteen pictures occur twice in the package, under two names.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from dfm.basics.locations import located
from dfm.data.dataset import data_folder

PICTURE = re.compile(r"package/assets/([0-9a-f_-]+)\.webp")  # a name without a folder or '..'
TONES = range(0x1F3FB, 0x1F400)
UNSEEN = (0xFE0F, 0xE007F)  # they ask for a picture and end a flag; not every name of a file has them

Emoji = tuple[int, ...]  # the code points of an emoji, without those that are not seen


class Package(NamedTuple):
    """A package of npm's registry."""

    name: str
    sha256: str


PICTURES = Package("@lobehub/fluent-emoji-3d@1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58")
NAMES = Package("unicode-emoji-json@0.9.0", "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401")


def fetched(package: Package, given: Path | None, scratch: Path) -> Path:
    """Return the file of a package, the given one or npm's, after a look at its hash.

    Raises:
        SystemExit: there is no npm, it failed, or the file is another one.
    """
    file = given or fetch(package, scratch)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SystemExit(f"{file}: its SHA-256 is {found}; allowed: {package.sha256}, that of {package.name}")
    return file


def fetch(package: Package, scratch: Path) -> Path:
    """Have npm fetch a package; return its file."""
    if shutil.which("npm") is None:
        raise SystemExit(
            f"npm is not installed; fetch {PICTURES.name} and {NAMES.name} from the npm registry, and give --pictures "
            "FILE.tgz --names FILE.tgz"
        )
    folder = Path(tempfile.mkdtemp(dir=scratch))
    command = ["npm", "pack", "--silent", package.name]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace")
    files = list(folder.glob("*.tgz"))
    if done.returncode or len(files) != 1:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
    return files[0]


def emoji(points: str) -> Emoji:
    """Return the emoji that the name of a file spells, as ``1f1e6-1f1e8``."""
    numbers = (int(point, 16) for point in re.split("[-_]+", points))
    return tuple(number for number in numbers if number not in UNSEEN)


def places(names: Path) -> dict[Emoji, tuple[str, str]]:
    """Return the group and the name of each emoji."""
    with tarfile.open(names) as package:
        content = package.extractfile("package/data-by-emoji.json")
        assert content is not None, "its hash says that it is there"
        known = json.load(content)
    return {
        tuple(ord(one) for one in text if ord(one) not in UNSEEN): (facts["group"], facts["slug"])
        for text, facts in known.items()
    }


def extract(pictures: Path, names: Path, target: Path, tones: bool) -> int:
    """Write each emoji of the package into the folder of its group, and return their number."""
    known, written = places(names), set()
    with tarfile.open(pictures) as package:
        for member in package:
            spelled = PICTURE.fullmatch(member.name)
            content = package.extractfile(member) if member.isfile() and spelled else None
            if content is None or spelled is None:
                continue
            whole = emoji(spelled[1])
            plain = tuple(point for point in whole if point not in TONES)
            if (whole != plain and not tones) or not plain:
                continue
            group, name = known[plain]
            toned = "".join(f"_{point:x}" for point in whole if point in TONES)
            place = target / group / f"{name}{toned}.webp"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.read())
            written.add(place)
    return len(written)


def main() -> None:
    """Fetch, check, extract."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, metavar="DIR", nargs="?", default=located(data_folder()) / "emoji")
    parser.add_argument("--pictures", type=Path, help=f"the file of {PICTURES.name}, if you have fetched it")
    parser.add_argument("--names", type=Path, help=f"the file of {NAMES.name}, if you have fetched it")
    parser.add_argument("--tones", action="store_true", help="keep the emoji in all tones of skin")
    options = parser.parse_args()
    target: Path = options.target
    if target.is_dir() and any(target.iterdir()):
        raise SystemExit(f"{target} holds files; allowed: a folder that is empty or not there yet")
    with tempfile.TemporaryDirectory() as scratch:
        pictures = fetched(PICTURES, options.pictures, Path(scratch))
        names = fetched(NAMES, options.names, Path(scratch))
        count = extract(pictures, names, target, options.tones)
    print(f"{count} emoji in {target}; try dfm train experiment=emoji_flow dataset.path={target}")


if __name__ == "__main__":
    main()
