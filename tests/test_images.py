"""Opening pictures: every result is plain RGB, every refusal is one line with the place, and nothing huge is ever decoded."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import pytest
from PIL import Image as PILImage
from PIL import ImageOps

from twoway import images
from twoway.content import ContentError, Document, Image, Place, open_document, to_messages
from twoway.images import image_size, open_image
from twoway.limits import Limits

PLACE = Place("captions.jsonl", 17)
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png(width, height, bits=1):
    """A real, whole PNG of zeros that is tiny on disk."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer, row = zlib.compressobj(1), bytes(1 + (width * bits + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def opened(source, **limits):
    picture = open_image(Image(source), place=PLACE, limits=Limits(**limits))
    assert picture.mode == "RGB"
    return picture


def refusal(source, **limits):
    with pytest.raises(ContentError) as caught:
        opened(source, **limits)
    message = str(caught.value)
    assert message.startswith("captions.jsonl:17: ")
    assert "\n" not in message
    return message


def rgb_or_refused(image):
    """Let any other error than a refusal through, and say whether the outcome is one of the two that are allowed."""
    try:
        return open_image(image, place=PLACE).mode == "RGB"
    except ContentError as error:
        return str(error).startswith("captions.jsonl:17: ")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_common_formats_open_from_bytes_path_and_memory_alike(kind, tmp_path):
    data = encoded(PILImage.new("RGB", (8, 6), "red"), kind)
    path = tmp_path / "no-extension-needed"
    path.write_bytes(data)
    from_bytes = opened(data)
    assert from_bytes.size == (8, 6)
    assert max(abs(a - b) for a, b in zip(from_bytes.getpixel((4, 3)), RED, strict=True)) < 8
    assert opened(path) == from_bytes == opened(PILImage.open(path))


def test_a_picture_given_in_memory_is_never_handed_out_itself():
    given = PILImage.new("RGB", (4, 4), "red")
    opened(given).putpixel((0, 0), (0, 0, 0))
    assert given.getpixel((0, 0)) == RED


@pytest.mark.parametrize("size", [0, 10, 200, 800])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_truncated_picture_is_refused(kind, size):
    noise = PILImage.effect_noise((64, 64), 60).convert("RGB")
    assert any(word in refusal(encoded(noise, kind)[:size]) for word in ("is broken", "is empty"))


def test_damaged_bytes_give_a_refusal_or_a_picture_but_never_another_error():
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        data = encoded(PILImage.effect_noise((24, 24), 60).convert("RGB"), kind)
        for spot in range(0, len(data), max(1, len(data) // 60)):
            hurt = bytearray(data)
            hurt[spot] ^= 0xFF
            assert rgb_or_refused(Image(bytes(hurt)))


@pytest.mark.parametrize(
    "data", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xef\xbb\xbf \n<!DOCTYPE html>", b"<?xml version='1.0'?><svg/>"]
)
def test_markup_is_named_as_such(data):
    assert "markup such as SVG or HTML" in refusal(data)


@pytest.mark.parametrize("data", [b"plain words", b"%PDF-1.7 ...", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\0" * 100])
def test_what_is_no_picture_is_refused_and_no_outside_program_is_run_on_it(data):
    assert "unknown format" in refusal(data)


def test_missing_files_and_folders_are_named(tmp_path):
    assert "nowhere.png does not exist" in refusal(tmp_path / "nowhere.png")
    assert "is not a file" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_frames_are_an_error_unless_the_first_is_asked_for(kind):
    frames = [PILImage.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert "has several frames" in refusal(data)
    assert max(abs(a - b) for a, b in zip(opened(data, frames="first").getpixel((4, 4)), RED, strict=True)) < 8


def test_the_second_picture_in_a_phones_jpeg_is_no_frame():
    data = encoded(PILImage.new("RGB", (8, 8), "red"), "MPO", save_all=True, append_images=[PILImage.new("RGB", (8, 8), "blue")])
    assert opened(data).getpixel((4, 4))[0] > 245


@pytest.mark.parametrize(("cyan", "expected"), [(0, (255, 255, 255)), (255, (0, 255, 255))])
def test_cmyk_becomes_rgb(cyan, expected):
    for kind in ("JPEG", "TIFF"):
        pixel = opened(encoded(PILImage.new("CMYK", (8, 8), (cyan, 0, 0, 0)), kind)).getpixel((4, 4))
        assert max(abs(a - b) for a, b in zip(pixel, expected, strict=True)) < 8


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA", "L", "RGB"])
def test_transparency_is_laid_on_white(mode):
    picture, options = PILImage.new("RGBA", (2, 1), (0, 0, 0, 0)), {}
    picture.putpixel((0, 0), (0, 0, 0, 255))
    if mode == "P":
        picture, options = PILImage.new("P", (2, 1), 1), {"transparency": 1}
        picture.putpalette([0, 0, 0, 9, 9, 9])
        picture.putpixel((0, 0), 0)
    elif mode in ("L", "RGB"):
        picture, options = PILImage.new(mode, (2, 1), "blue"), {"transparency": 29 if mode == "L" else (0, 0, 255)}
        picture.putpixel((0, 0), 0)
    else:
        picture = picture.convert(mode)
    result = opened(encoded(picture, **options))
    assert (result.getpixel((0, 0)), result.getpixel((1, 0))) == ((0, 0, 0), WHITE)


def test_sixteen_bits_keep_their_range():
    picture = PILImage.new("I;16", (3, 1))
    for x, value in enumerate((0, 32768, 65535)):
        picture.putpixel((x, 0), value)
    for kind in ("PNG", "TIFF"):
        result = opened(encoded(picture, kind))
        assert [result.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(mode):
    assert "unknown range" in refusal(encoded(PILImage.new(mode, (4, 4), 100_000), "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L", "HSV", "YCbCr", "LAB", "La", "RGBX"])
def test_any_mode_in_memory_opens_or_is_refused_in_one_line(mode):
    assert rgb_or_refused(Image(PILImage.new(mode, (4, 4))))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once_and_then_gone(orientation):
    noise = PILImage.effect_noise((6, 4), 80).convert("RGB")
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    data = encoded(noise, "PNG", exif=exif)
    result = opened(data)
    assert result.tobytes() == ImageOps.exif_transpose(PILImage.open(io.BytesIO(data))).tobytes()
    assert result.size == ((4, 6) if orientation > 4 else (6, 4))
    assert image_size(Image(data)) == image_size(Image(PILImage.open(io.BytesIO(data)))) == result.size
    # What later steps do with a picture (transformers turns it by its EXIF) must find nothing left to turn.
    assert ImageOps.exif_transpose(result).tobytes() == result.tobytes()


def test_threads_that_open_pictures_leave_warnings_as_they_are(monkeypatch):
    inside, go, plain = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)], images._to_rgb
    names = {f"opens {number}": number for number in range(2)}

    def slow(picture):
        number = names[threading.current_thread().name]
        inside[number].set()
        assert go[number].wait(20)
        return plain(picture)

    monkeypatch.setattr(images, "_to_rgb", slow)
    before = list(warnings.filters)
    threads = [threading.Thread(target=opened, args=(PILImage.new("RGB", (4, 4)),), name=name) for name in names]
    for number, thread in enumerate(threads):
        thread.start()
        assert inside[number].wait(20)
    for number, thread in enumerate(threads):
        go[number].set()
        thread.join()
    assert list(warnings.filters) == before


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (3, 3)])
def test_tiny_pictures_are_allowed_as_they_are(size):
    assert opened(PILImage.new("RGB", size)).size == size
    assert opened(encoded(PILImage.new("RGB", size))).size == size


def test_a_picture_too_narrow_for_the_processors_is_refused_with_its_row():
    assert "is too narrow (1 x 201" in refusal(encoded(PILImage.new("L", (1, 201))))
    assert "is too narrow (402 x 2" in refusal(PILImage.new("L", (402, 2)))


def test_a_plain_jpeg_above_the_bound_is_decoded_smaller_and_nothing_else_is():
    noise = PILImage.effect_noise((800, 400), 60)
    for picture in (noise, noise.convert("RGB"), noise.convert("CMYK")):
        assert opened(encoded(picture, "JPEG"), max_pixels=90_000).size == (400, 200)
        assert opened(encoded(picture, "JPEG"), max_pixels=30_000).size == (200, 100)
        assert "is too large (800 x 400, the bound is 4,000 pixels)" in refusal(encoded(picture, "JPEG"), max_pixels=4000)
        assert "is too large" in refusal(encoded(picture, "JPEG", progressive=True), max_pixels=90_000)
    assert "is too large" in refusal(encoded(noise), max_pixels=90_000)
    assert "is too large" in refusal(noise, max_pixels=90_000)


def test_the_bound_itself_is_allowed():
    assert opened(png(100, 100), max_pixels=10_000).size == (100, 100)
    assert "is too large" in refusal(png(100, 101), max_pixels=10_000)


def test_a_huge_picture_is_refused_without_decoding_it(tmp_path):
    """The pictures are whole, so only the refusal keeps their 400 million (and, of the GIF, 4 billion) pixels out of memory."""
    (tmp_path / "grey.png").write_bytes(png(20_000, 20_000))
    (tmp_path / "below-pillows-own-bound.png").write_bytes(png(9_000, 9_000, bits=8))
    (tmp_path / "giant.gif").write_bytes(b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x08\x01\x00\x00;")
    script = """
import json, resource, sys
from pathlib import Path
from twoway.content import ContentError, Image
from twoway.images import open_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, messages = peak(), []
for path in sorted(Path(sys.argv[1]).iterdir()):
    for image in (Image(path), Image(path.read_bytes())):
        try:
            open_image(image)
        except ContentError as error:
            messages.append(str(error))
sys.stdout.write(json.dumps({"grown": peak() - before, "messages": messages}))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert len(answer["messages"]) == 6
    assert all("is too large" in message for message in answer["messages"])
    assert answer["grown"] < 16 * 1024  # KiB; the smallest of the three would take 81 MB


def test_a_document_opens_in_order_and_keeps_place_and_meta(tmp_path):
    PILImage.new("RGB", (2, 2), "red").save(tmp_path / "a.png")
    document = Document.from_parts([{"text": "a"}, {"image": "a.png"}, {"text": "b"}], place=PLACE, root=tmp_path, meta={"id": 1})
    ready = open_document(document)
    assert (ready.texts, ready.place, ready.meta) == (("a", "b"), PLACE, {"id": 1})
    assert ready.images[0].source.getpixel((0, 0)) == RED
    (message,) = to_messages(document)
    assert [part["type"] for part in message["content"]] == ["text", "image", "text"]
    assert message["content"][1]["image"].getpixel((0, 0)) == RED


def test_a_root_given_at_opening_bounds_the_path(tmp_path):
    PILImage.new("RGB", (2, 2)).save(tmp_path / "a.png")
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(ContentError, match=r"captions.jsonl:17: picture ../a.png leaves the data folder"):
        open_image(Document.from_parts([{"image": "../a.png"}]).images[0], root=data, place=PLACE)


def test_the_rows_place_is_in_the_error_of_its_picture(tmp_path):
    document = Document.from_parts([{"image": "gone.png"}], place=PLACE, root=tmp_path)
    for use in (open_document, to_messages):
        with pytest.raises(ContentError, match=r"captions.jsonl:17: picture gone.png does not exist in "):
            use(document)
