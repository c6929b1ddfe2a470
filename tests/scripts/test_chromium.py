"""Set-up takes the Chromium that is there, installs one through apt-get where it may, and otherwise says what to install."""

from __future__ import annotations

import os

import pytest

from scripts import chromium

APT = """#!/bin/sh
echo "$@" >> {folder}/asked
case "$*" in *install*) : > {folder}/chromium; /bin/chmod +x {folder}/chromium;; esac
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(chromium, "PROGRAMS", [name for name in chromium.PROGRAMS if not os.path.isabs(name)])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def program(folder, name, text="#!/bin/sh\n"):
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_one_that_is_there_is_taken(folder, capsys):
    program(folder, "google-chrome")
    program(folder, "apt-get", APT.format(folder=folder))
    chromium.main()
    assert chromium.find() == str(folder / "google-chrome")
    assert not (folder / "asked").exists()
    assert capsys.readouterr().err == ""


def test_root_installs_the_systems_package(folder, capsys):
    program(folder, "apt-get", APT.format(folder=folder))
    chromium.main()
    update, install = (folder / "asked").read_text().splitlines()
    assert update.endswith("update")
    assert install.endswith("install --yes --no-install-recommends chromium")
    assert chromium.find() == str(folder / "chromium")
    assert chromium.MISSING not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("apt", "root", "why"),
    [
        (None, True, "apt-get is not here"),
        (APT, False, "only root may install it"),
        ("#!/bin/sh\necho first >&2\necho 'E: no such package' >&2\nexit 100\n", True, "apt-get update: E: no such package"),
    ],
)
def test_where_it_cannot_be_installed_set_up_says_what_to_do(folder, capsys, monkeypatch, apt, root, why):
    if apt:
        program(folder, "apt-get", apt.format(folder=folder))
    if not root:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    chromium.main()
    said = capsys.readouterr().err
    assert chromium.MISSING in said
    assert why in said
    with pytest.raises(RuntimeError, match="apt-get install chromium"), chromium.launched():
        pass
