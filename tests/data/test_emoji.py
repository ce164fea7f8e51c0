"""The script that makes the folder of emoji, on packages that the test makes; nothing is fetched."""

import hashlib
import io
import json
import runpy
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_emoji.py"
ELEPHANT, FLAG, KEYCAP, HAND = "\U0001f418", "\U0001f3f4\U000e0067\U000e007f", "1\ufe0f\u20e3", "\U0001f44b"
NAMES = {
    ELEPHANT: {"slug": "elephant", "group": "Animals & Nature"},
    FLAG: {"slug": "flag_g", "group": "Flags"},
    KEYCAP: {"slug": "keycap_1", "group": "Symbols"},
    HAND: {"slug": "waving_hand", "group": "People & Body"},
}
MEMBERS = {
    "package/assets/1f418.webp": "Animals & Nature/elephant.webp",
    "package/assets/1f3f4-e0067.webp": "Flags/flag_g.webp",
    "package/assets/0031-fe0f-20e3.webp": "Symbols/keycap_1.webp",
    "package/assets/31-20e3.webp": "Symbols/keycap_1.webp",  # the same one, spelled otherwise
    "package/assets/1f44b-1f3fb.webp": None,  # another tone of skin
    "package/assets/../../1f419.webp": None,
    "/package/assets/1f420.webp": None,
    "package/package.json": None,
}


def package(path: Path, contents: dict[str, bytes]) -> str:
    """Write a package; return its SHA-256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_each_emoji_of_the_package_is_in_the_folder_of_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    pictures, names, target = tmp_path / "pictures.tgz", tmp_path / "names.tgz", tmp_path / "deep" / "emoji"
    of_pictures = package(pictures, {name: name.encode() for name in MEMBERS})
    of_names = package(names, {"package/data-by-emoji.json": json.dumps(NAMES).encode()})
    words = ["make_emoji.py", "--pictures", str(pictures), "--names", str(names)]
    monkeypatch.setattr(sys, "argv", [*words, str(target)])
    with pytest.raises(SystemExit, match=f"SHA-256 is {of_pictures}; allowed: c1bb7eee"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    script = runpy.run_path(str(SCRIPT))
    here = script["main"].__globals__
    for key, digest in (("PICTURES", of_pictures), ("NAMES", of_names)):
        monkeypatch.setitem(here, key, here[key]._replace(sha256=digest))
    script["main"]()
    written = {str(p.relative_to(target)) for p in target.rglob("*.webp")}
    assert written == {place for place in MEMBERS.values() if place}
    assert (target / "Animals & Nature" / "elephant.webp").read_text() == "package/assets/1f418.webp"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "names.tgz", "pictures.tgz"], "no name leads out"
    assert "3 emoji" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds files; allowed: a folder that is empty"):
        script["main"]()
    monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "tones"), "--tones"])
    script["main"]()
    assert "4 emoji" in capsys.readouterr().out
    assert (tmp_path / "tones" / "People & Body" / "waving_hand_1f3fb.webp").exists()
