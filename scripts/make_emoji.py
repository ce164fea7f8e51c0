"""Make a folder of 1,871 emoji, pictures of 256x256 with opacity, for ``dfm train experiment=emoji_flow``.

    python scripts/make_emoji.py [DIR] [--archive FILE.tgz] [--tones]

DIR is the folder of the pictures; the default is emoji/ in dfm's folder of data, which ``experiment=emoji_flow`` reads.

The pictures are Microsoft's Fluent Emoji (MIT licence) from the npm package @lobehub/fluent-emoji-3d 1.1.0, 16 MB. The
script has npm fetch it (``npm pack``), or takes the file that you fetched, and checks its hash. Nothing in it is run.
The other 1,520 pictures are the same emoji in five more tones of skin. They are left out, because near copies of
training pictures would be test pictures; ``--tones`` keeps them.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from dfm.basics.locations import located
from dfm.data.dataset import data_folder

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
SHA256 = "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
PICTURE = re.compile(r"package/assets/([0-9a-f_-]+\.webp)")  # a name without a folder or '..'
TONE = re.compile(r"1f3f[b-f]")


def fetch(folder: Path) -> Path:
    """Have npm fetch the package; return its file.

    Raises:
        SystemExit: there is no npm, or it failed.
    """
    if shutil.which("npm") is None:
        raise SystemExit(f"npm is not installed; fetch {PACKAGE} from the npm registry, and give --archive FILE.tgz")
    command = ["npm", "pack", "--silent", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace")
    files = list(folder.glob("*.tgz"))
    if done.returncode or len(files) != 1:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
    return files[0]


def extract(archive: Path, target: Path, tones: bool) -> int:
    """Write the pictures of the package into a folder, and return their number."""
    target.mkdir(parents=True, exist_ok=True)
    count = 0
    with tarfile.open(archive) as package:
        for member in package:
            name = PICTURE.fullmatch(member.name)
            content = package.extractfile(member) if member.isfile() and name else None
            if content is None or name is None or (TONE.search(name[1]) and not tones):
                continue
            (target / name[1]).write_bytes(content.read())
            count += 1
    return count


def main() -> None:
    """Fetch, check, extract."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, metavar="DIR", nargs="?", default=located(data_folder()) / "emoji")
    parser.add_argument("--archive", type=Path, help="the package, if you have fetched it")
    parser.add_argument("--tones", action="store_true", help="keep the emoji in all tones of skin")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        archive = options.archive or fetch(Path(scratch))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != SHA256:
            raise SystemExit(f"{archive}: its SHA-256 is {found}; allowed: {SHA256}, that of {PACKAGE}")
        count = extract(archive, options.target, options.tones)
    print(f"{count} emoji in {options.target}; try dfm train experiment=emoji_flow dataset.path={options.target}")


if __name__ == "__main__":
    main()
