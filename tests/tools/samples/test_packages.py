"""Packages: what is missing or changed is said in one line, and nothing of it is kept."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import pytest
from tools.samples.__main__ import main
from tools.samples.other_terms import build_with

from tools import packages
from twoway.errors import TwowayError, UsageError
from twoway.files import sha256

if TYPE_CHECKING:
    from pathlib import Path


def _archive(folder: Path) -> Path:
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "LICENSE").write_text("do as you like")
    with tarfile.open(folder / "thing-1.0.tgz", "w:gz") as tar:
        tar.add(folder / "package", "package")
    return folder / "thing-1.0.tgz"


def test_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for package in packages.PERMISSIVE:
        with pytest.raises(TwowayError, match="is not on this machine and fetches"):
            packages.fetch([package], cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*-*"))


def test_changed_archive_is_refused_and_a_right_one_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _archive(tmp_path / "made")
    calls: list[str] = []

    def download(package: packages.Package, folder: Path) -> Path:
        calls.append(package.name)
        return archive

    monkeypatch.setattr(packages, "_download", download)
    wrong = packages.Package("thing", "1.0", "npm", "0" * 64, "MIT")
    with pytest.raises(TwowayError, match="not used"):
        packages.fetch([wrong], cache=tmp_path / "cache")
    right = packages.Package("thing", "1.0", "npm", sha256(archive), "MIT")
    for _ in range(2):
        folder = packages.fetch([right], cache=tmp_path / "cache")["thing"]
        assert (folder / "LICENSE").read_text() == "do as you like"
    assert calls == ["thing", "thing"]


def test_other_terms_are_not_among_what_is_shipped(tmp_path: Path) -> None:
    shipped = {package.name for package in packages.PERMISSIVE}
    assert shipped.isdisjoint(package.name for found in packages.OTHER_TERMS.values() for package in found)
    with pytest.raises(UsageError, match="did you mean share-alike"):
        build_with("share-alik", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out"), "--with", "share-alik"]) == 2
    assert (
        capsys.readouterr().err
        == "python -m tools.samples: --with share-alik is not known; did you mean share-alike? (known: share-alike, gpl)\n"
    )
