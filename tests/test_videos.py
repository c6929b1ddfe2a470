"""A video is a few frames with their times, whatever it lies in; what cannot be one is an error of its row, in one line."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest
from PIL import Image as PILImage

from clips import brightness, clip
from twoway.content import ContentError, Document, Image, Place, Text, Video
from twoway.data.config import PairSource
from twoway.data.dataset import open_source, open_table
from twoway.data.mixture import open_pairs
from twoway.embedding.writing import cut_into_segments
from twoway.images import DEFAULT
from twoway.limits import Limits, ReadLimits
from twoway.methods.duplicates import is_copy, sketch


def video(source, **options):
    return Document.from_parts([{"video": source, **options}]).parts[0]


def shown(source, limits=DEFAULT, **options):
    value = video(source, **options).opened(None, limits).value
    said = value["video_metadata"]
    assert video(source, **options).size(None, limits) == (*value["array"].shape[:1:-1], len(value["array"]))
    return brightness(value["array"]), [round(number / said["fps"], 2) for number in said["frames_indices"]]


def test_frames_are_taken_evenly_or_by_their_rate(tmp_path):
    path = clip(tmp_path / "a.mp4", frames=48, rate=12)
    assert shown(path, num_frames=4) == (pytest.approx([0, 16, 31, 47], abs=0.7), [0, 1.33, 2.58, 3.92])
    assert shown(path, fps=2)[1] == [0, 0.58, 1.08, 1.67, 2.25, 2.83, 3.33, 3.92]
    assert shown(path, start=1, end=2, num_frames=2) == (pytest.approx([12, 23], abs=0.7), [1, 1.92])
    assert shown(path, num_frames=1)[1] == [1.92, 1.92], "one frame is that in the middle, and stands twice"
    assert len(shown(path, Limits(fps=100, max_frames=5))[0]) == 5
    assert len(shown(path, num_frames=4000)[0]) == 48, "no frame is taken twice"
    assert len(shown(path)[0]) == ReadLimits().num_frames


def test_frames_far_apart_are_jumped_to(tmp_path):
    path = clip(tmp_path / "long.mp4", frames=51 * 24, rate=24, size=(16, 16))
    first, last = shown(path, num_frames=2)[0]
    assert (first, last) == pytest.approx((0, (51 * 24 - 1) * 5 % 256 / 5), abs=0.9)
    middle = shown(path, start=25, end=26, num_frames=3)
    assert middle[0] == pytest.approx([(number * 5 % 256) / 5 for number in (600, 612, 623)], abs=0.9)


def test_variable_rates_go_by_time_and_gifs_frame_by_frame(tmp_path):
    path = clip(tmp_path / "v.mkv", times=[0, 100, 200, 300, 1000, 1100, 1200, 3000, 3100, 4000])
    assert shown(path, num_frames=5) == (pytest.approx([0, 4, 6, 7, 9], abs=0.7), [0, 1.0, 2.0, 3.0, 4.0])
    frames = [PILImage.new("RGB", (32, 24), (50 * number,) * 3) for number in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 100, 900, 100])
    assert shown(tmp_path / "a.gif")[0] == [0, 10, 20, 30]


def test_phone_videos_are_upright(tmp_path):
    path = clip(tmp_path / "a.mp4", frames=4)
    data = path.read_bytes()
    upright, quarter = (b"".join(n.to_bytes(4, "big", signed=True) for n in m) for m in ((65536, 0, 0, 0, 65536), (0, 65536, 0, -65536, 0)))
    at = data.index(upright, data.index(b"tkhd"))
    path.write_bytes(data[:at] + quarter + data[at + 20 :])
    assert video(path).size(None, DEFAULT)[:2] == (48, 64)
    assert video(path).opened(None, DEFAULT).value["array"].shape[2:] == (64, 48)


def test_large_frames_are_shrunk_as_they_are_read(tmp_path):
    path = clip(tmp_path / "a.mp4", size=(320, 240), frames=4)
    assert video(path).size(None, Limits(max_frame_pixels=4800)) == (80, 60, 4)
    with pytest.raises(ContentError, match=r"too large \(320 x 240, the bound is 1,000 pixels a frame\)"):
        video(path).opened(None, Limits(max_pixels=1000))


def test_folders_and_lists_of_pictures_are_videos(tmp_path):
    for number in range(12):
        PILImage.new("RGB", (20, 10), (5 * number,) * 3).save(tmp_path / f"frame{number}.png")
    assert shown(tmp_path, num_frames=3, fps=4) == ([0, 6, 11], [0, 1.5, 2.75])
    listed = [str(tmp_path / "frame3.png"), (tmp_path / "frame4.png").read_bytes(), PILImage.new("RGB", (40, 20), (25,) * 3)]
    assert shown(listed)[0] == [3, 4, 5], "a frame of another size is brought to that of the first"
    array = np.stack([np.full((8, 6, 3), 5 * number, np.uint8) for number in range(3)])
    assert shown(array)[0] == shown({"array": array.transpose(0, 3, 1, 2), "video_metadata": {"fps": 2}})[0] == [0, 1, 2]


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (b"", "is empty"),
        (b"no video at all" * 40, "is broken or in an unknown format"),
        ("still", "is a still picture .* write it as an image"),
        ("sound", r"has no video stream \(it has: audio\)"),
        ("torn", ".*: it is torn"),
        ("playlist", "is broken or in an unknown format"),
    ],
)
def test_what_is_no_video_is_an_error_of_its_row(tmp_path, made, says):
    path = tmp_path / "a.mp4"
    if isinstance(made, bytes):
        path.write_bytes(made)
    elif made == "still":
        PILImage.new("RGB", (9, 9)).save(path, "PNG")
    elif made == "sound":
        import wave

        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes(1600))
    elif made == "torn":
        whole = clip(tmp_path / "whole.mkv", frames=120, size=(320, 240)).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"video": "a.mp4", "text": "x"}) + "\n")
    with pytest.raises(ContentError, match=rf"rows.jsonl:1: video a.mp4 {says}"):
        list(open_source(rows))


def test_a_video_that_takes_more_than_its_bounds_is_ended(tmp_path):
    path = clip(tmp_path / "a.mp4", frames=4)
    with pytest.raises(ContentError, match=r"a.mp4 .*needs more than 20 MB of memory"):
        video(path).opened(None, Limits(max_media_memory=20 << 20))
    assert len(shown(path)[0]) == 4, "and the next one is read"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"video": "a.mp4", "fps": 0}, "fps of the video of part 1 is 0, not a number above 0"),
        ({"video": "a.mp4", "start": 3, "end": 2}, "ends at second 2, which is not after its start"),
        ({"video": "a.mp4", "speed": 2}, "part 1 has the unknown key 'speed'"),
        ({"video": []}, "is empty: it has no frames"),
        ({"video": "https://a/b.mp4"}, "is a URL; nothing is downloaded, so save the video beside the data"),
        ({"image": "a.png", "fps": 2}, "part 1 has the unknown key 'fps'"),
        ({"video": 3}, "is a number, not a path, bytes, or a list of pictures"),
    ],
)
def test_wrong_parts_are_said(part, says):
    with pytest.raises(ContentError, match=says):
        Document.from_parts([part])


def test_every_kind_of_source_holds_videos(tmp_path):
    import datasets

    data = clip(tmp_path / "a.mp4").read_bytes()
    path, wanted = Document((Video(tmp_path / "a.mp4"), Text("said"))), Document((Video(data), Text("said")))
    assert path.fingerprint() == wanted.fingerprint()
    table = datasets.Dataset.from_list([{"video": {"bytes": data, "path": None}, "text": "said"}])
    table.to_parquet(tmp_path / "rows.parquet")
    table.save_to_disk(tmp_path / "disk")
    rows = tmp_path / "rows.jsonl"
    parts = {"parts": [{"video": "a.mp4", "fps": None, "image": None}, {"text": "said"}]}
    chat = {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "said"}]}]}
    marked = {"videos": ["a.mp4"], "text": "<video>said"}
    rows.write_text("".join(json.dumps(row) + "\n" for row in (parts, chat, marked, {"video": "a.mp4", "text": "said"})))
    with tarfile.open(tmp_path / "rows.tar", "w") as tar:
        (tmp_path / "b.txt").write_text("said")
        tar.add(tmp_path / "a.mp4", "1.mp4")
        tar.add(tmp_path / "b.txt", "1.txt")
    for source, count in (("rows.parquet", 1), ("disk", 1), ("rows.jsonl", 4), ("rows.tar", 1)):
        read = list(open_source(tmp_path / source, images="lazy"))
        assert [one.fingerprint() for one in read] == [wanted.fingerprint()] * count, source
        assert open_table(str(tmp_path / source)).sizes.tolist() == [[1, 64, 48, 8]] * count
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(data)
    assert next(iter(open_source(folder, images="lazy"))).parts[0].file == folder / "a.mp4"


def test_either_side_of_a_pair_is_a_video(tmp_path):
    clip(tmp_path / "a.mp4")
    rows = tmp_path / "pairs.jsonl"
    rows.write_text(
        json.dumps({"query_video": "a.mp4", "query_text": "what?", "positive": [{"video": "a.mp4", "start": 1}, "this"]}) + "\n"
    )
    pair = open_pairs([PairSource(str(rows))]).read(0)[1]
    assert [type(part) for part in pair.query.parts] == [Video, Text]
    assert pair.positive.parts[0].start == 1


def test_what_is_taken_of_a_file_tells_videos_apart(tmp_path):
    path = clip(tmp_path / "a.mp4")
    parts = [{"video": path}, {"video": path, "num_frames": 4}, {"video": path, "start": 1}, {"video": path, "fps": 2}]
    assert len({Document.from_parts([part]).fingerprint() for part in parts}) == 4
    read = Document.from_parts([{"video": path}], limits=ReadLimits(num_frames=4))
    assert read.fingerprint() == Document.from_parts([parts[1]]).fingerprint()
    assert read == Document.from_parts([parts[0]], place=Place("a"))


def test_clips_that_show_the_same_in_another_order_are_no_copies(tmp_path):
    frames = [PILImage.new("RGB", (32, 32), (shade,) * 3) for shade in (0, 60, 120, 180, 240)]
    there, back = (sketch(Document.from_parts([{"video": order}])) for order in (frames, frames[::-1]))
    assert is_copy(there, there)
    assert not is_copy(there, back), "their middle frames are the same"


def test_a_video_is_shown_by_its_middle_frame_and_sent_as_its_file(tmp_path):
    path = clip(tmp_path / "a.mp4", frames=9)
    assert brightness([np.asarray(video(path).preview(None, DEFAULT))]) == pytest.approx([4], abs=0.5)
    assert video(path).as_request(None)["video_url"]["url"].startswith("data:video/mp4;base64,AAAA")
    assert video(path).opened(None, DEFAULT).describe() == "8 frames of 64x48"
    assert not Image.found_in(path.read_bytes(), paths=False)
    assert Video.found_in(path.read_bytes(), paths=False)


def test_two_hours_are_looked_up_and_not_decoded(tmp_path):
    path = clip(tmp_path / "long.mkv", times=[30_000 * number for number in range(241)], size=(16, 16))
    quick = Limits(max_media_seconds=3, max_media_memory=1 << 30)
    assert video(path).seconds(None, quick) == pytest.approx(7200, rel=0.01)
    frames, times = shown(path, quick, num_frames=3)
    assert frames == pytest.approx([number * 5 % 256 / 5 for number in (0, 120, 240)], abs=0.9)
    assert times == pytest.approx([0, 3600, 7200], abs=31)
    last = Document.from_parts([{"video": path, "start": 7080, "end": 7200}], place=Place("long.mkv"))
    assert brightness(last.parts[0].opened(None, quick).value["array"])[-1] == pytest.approx(239 * 5 % 256 / 5, abs=0.9)
    made = list(cut_into_segments(Document.from_parts([{"video": path}], place=Place("long.mkv")), 600, quick))
    assert [one.meta["start"] for one in made] == [600 * number for number in range(12)]
    assert list(cut_into_segments(last, 60, quick))[-1].meta["end"] == 7200


def test_8k_is_shrunk_as_it_is_read_or_refused(tmp_path):
    path = clip(tmp_path / "8k.mp4", size=(7680, 4320), frames=1)
    assert video(path).size(None, DEFAULT) == (1365, 768, 2)
    assert brightness(video(path, num_frames=1).opened(None, DEFAULT).value["array"]) == pytest.approx([0, 0], abs=0.9)
    with pytest.raises(ContentError, match=r"is too large \(7,680 x 4,320, the bound is 20,000,000 pixels a frame\); make it smaller"):
        video(path).size(None, Limits(max_pixels=20_000_000))
    with pytest.raises(ContentError, match=r"8k.mp4 .*needs more than 100 MB of memory"):
        video(path).opened(None, Limits(max_media_memory=100 << 20))


def test_a_gif_that_begins_again_for_ever_is_read_once(tmp_path):
    frames = [PILImage.new("RGB", (32, 24), (50 * number,) * 3) for number in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
    assert shown(tmp_path / "a.gif", num_frames=64)[0] == [0, 10, 20, 30]
    assert video(tmp_path / "a.gif").seconds(None, DEFAULT) == pytest.approx(0.4, abs=0.11)
