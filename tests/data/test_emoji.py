"""The script that makes the folder of emoji, on a package that the test makes; nothing is fetched."""

import hashlib
import io
import runpy
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_emoji.py"
MEMBERS = {
    "package/assets/1f418.webp": True,
    "package/assets/1f3f4-e0067_e007f.webp": True,
    "package/assets/1f44b-1f3fb.webp": False,  # another tone of skin
    "package/assets/../../1f419.webp": False,
    "/package/assets/1f420.webp": False,
    "package/package.json": False,
}


def package(path: Path) -> str:
    """Write the package; return its SHA-256."""
    with tarfile.open(path, "w:gz") as archive:
        for name in MEMBERS:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_the_packages_pictures_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    digest = package(tmp_path / "emoji.tgz")
    target = tmp_path / "deep" / "emoji"
    monkeypatch.setattr(sys, "argv", ["make_emoji.py", str(target), "--archive", str(tmp_path / "emoji.tgz")])
    with pytest.raises(SystemExit, match=f"SHA-256 is {digest}; allowed: c1bb7eee"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(script["main"].__globals__, "SHA256", digest)
    script["main"]()
    written = {p.name for p in target.iterdir()}
    assert written == {Path(name).name for name, kept in MEMBERS.items() if kept}
    assert (target / "1f418.webp").read_text() == "package/assets/1f418.webp"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "emoji.tgz"], "no name leads out of the folder"
    assert "2 emoji" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--tones"])
    script["main"]()
    assert len(list(target.iterdir())) == 3
