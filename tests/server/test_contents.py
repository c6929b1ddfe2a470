"""A request brings its pictures with it: nothing is fetched, no path is read, and what would not fit is refused by its header."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PILImage

from clips import clip, tone
from twoway.server.schemas import ServerLimits


def bomb(width=50_000, height=50_000):
    """Return a PNG of a few bytes that unfolds into gigabytes."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def url(data):
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def ask(client, *urls, words=()):
    parts = [{"type": "image_url", "image_url": {"url": one}} for one in urls] + [{"type": "text", "text": one} for one in words]
    answer = client.post("/v1/embeddings", json={"messages": [{"role": "user", "content": parts}]})
    return answer.status_code, answer.json().get("error", {}).get("message", "")


@pytest.mark.parametrize("address", ["http://{}/", "https://{}/cat.png", "file://{}", "{}", "//{}", "ftp://{}", "data:image/png,{}", ""])
def test_no_address_is_fetched_and_no_path_is_read(client, tmp_path, picture, monkeypatch, address):
    picture().save(tmp_path / "cat.png")
    opened = []
    monkeypatch.setattr("socket.socket.connect", lambda self, where: opened.append(where))
    monkeypatch.setattr("pathlib.Path.open", lambda self, *rest: opened.append(self))
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda self: opened.append(self))
    status, message = ask(client, address.format(tmp_path / "cat.png" if "http" not in address else "127.0.0.1:9"))
    assert status == 400
    assert "nothing is fetched" in message
    assert opened == []


def test_a_bomb_is_refused_before_a_pixel_is_decoded(client, monkeypatch):
    decoded = []
    monkeypatch.setattr(PILImage.Image, "load", lambda self: decoded.append(self.size))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: decoded.append(self.size))
    for size in [(50_000, 50_000), (10_000, 10_000), (5_000, 4_001)]:
        status, message = ask(client, url(bomb(*size)))
        assert status == 400
        assert "too large" in message
    assert decoded == []


def test_pictures_of_a_request_are_bounded_together(serve, picture, data_url):
    client = serve(limits=ServerLimits(pixels=5_000, request_pixels=8_000, batch_pixels=1))
    one = data_url(picture(1, 60, 60))
    assert ask(client, one, one)[0] == 200
    status, message = ask(client, one, one, one)
    assert status == 400
    assert "8,000 pixels together" in message
    assert "too large" in ask(client, data_url(picture(1, 80, 80)))[1]


def test_parts_texts_and_their_lengths_are_bounded(serve):
    client = serve(limits=ServerLimits(parts=3, inputs=2, characters=50))
    assert "at most 3" in ask(client, words=["w"] * 4)[1]
    assert "51 characters" in client.post("/v1/embeddings", json={"input": "w" * 51}).json()["error"]["message"]
    assert "at most 2" in client.post("/v1/embeddings", json={"input": ["w"] * 3}).json()["error"]["message"]


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'/>"


@pytest.mark.parametrize(
    ("data", "said"), [(b"", "empty"), (b"not a picture", "unknown format"), (SVG, "markup"), (bomb(9, 9)[:44], "broken")]
)
def test_a_broken_picture_is_the_askers_error(client, data, said):
    status, message = ask(client, url(data))
    assert status == 400
    assert "messages.content" in message
    assert said in message


def test_videos_are_sent_and_bounded_like_pictures(serve, engine, tmp_path):
    data = base64.b64encode(clip(tmp_path / "a.mp4", frames=12).read_bytes()).decode()
    address = {"url": f"data:video/mp4;base64,{data}"}
    client = serve(limits=ServerLimits(pixels=5_000, request_pixels=40_000))

    def send(*parts):
        answer = client.post("/v1/embeddings", json={"messages": [{"role": "user", "content": list(parts)}]})
        return answer.json()["data"][0]["embedding"] if answer.status_code == 200 else answer.json()["error"]["message"]

    words = {"type": "text", "text": "a grey thing"}
    found = send({"type": "video_url", "video_url": address, "num_frames": 4, "start": 0.25}, words)
    wanted = engine.array([[{"video": tmp_path / "a.mp4", "num_frames": 4, "start": 0.25}, {"text": "a grey thing"}]])[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    twice = [{"type": "video_url", "video_url": address}] * 2
    assert "the pictures of the request have more than 40,000 pixels together" in send(*twice)
    assert "nothing is fetched" in send({"type": "video_url", "video_url": {"url": "file:///etc/hostname"}})
    assert "is broken or in an unknown format" in send({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}})
    sound = base64.b64encode(tone(tmp_path / "a.wav").read_bytes()).decode()
    assert "this model takes no audios" in send({"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}, words)


def test_base64_that_is_none_is_an_error(client):
    assert "is not base64" in ask(client, "data:image/png;base64,@@@@")[1]
    assert "is not base64" in ask(client, "data:image/png;base64,AAA")[1]
