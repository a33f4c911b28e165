"""Frames of a file: the right ones, and a sentence for what is no video."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsevlm_trt.runtime import extras
from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.video_loader import load_video, sampled_indices

av = pytest.importorskip("av", reason="the extra `video` is not installed")
NUM_ALL, RATE = 20, 10


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Twenty grey frames, each lighter than the one before it."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(NUM_ALL):
            shade = np.full((48, 64, 3), 10 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.mark.parametrize("num_frames", [1, 3, 8, 20, 99])
def test_frames_are_taken_evenly_from_the_first(film, num_frames):
    clip = load_video(film, num_frames)
    shades = [np.asarray(frame).mean() / 10 for frame in clip.frames]
    assert np.rint(shades).tolist() == sampled_indices(NUM_ALL, num_frames)
    assert len(shades) == min(num_frames, NUM_ALL)
    assert clip.frames_per_second == pytest.approx(RATE * len(shades) / NUM_ALL)
    assert clip.seconds == [number / RATE for number in sampled_indices(NUM_ALL, num_frames)]
    assert clip.duration == NUM_ALL / RATE
    assert clip.times(1) == clip.seconds


@given(num_all=st.integers(1, 3000), num_frames=st.integers(1, 64))
def test_indices_are_those_of_transformers(num_all, num_frames):
    indices = sampled_indices(num_all, num_frames)
    assert len(indices) == min(num_all, num_frames)
    if num_frames < num_all:
        theirs = torch.arange(0, num_all, num_all / num_frames).int().tolist()[:num_frames]
        assert all(abs(ours - other) <= 1 for ours, other in zip(indices, theirs, strict=True))
        assert sum(ours != other for ours, other in zip(indices, theirs, strict=True)) <= 1


def test_no_video_is_one_sentence(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("no video")
    with pytest.raises(InputError, match=r"notes\.mp4 .* expected a readable video file"):
        load_video(path)
    with pytest.raises(InputError, match=r"gone\.mp4"):
        load_video(tmp_path / "gone.mp4")
    with pytest.raises(InputError, match="got 0 frames"):
        load_video(path, 0)


def test_without_pyav_the_extra_is_named(film, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(extras.MissingPackageError, match=r"sparsevlm-trt\[video\]"):
        load_video(film)
