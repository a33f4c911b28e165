"""Images at their own resolution: as many patches as they have pixels for (Qwen2-VL and after).

Neighbouring patches are merged to one token; a token has three positions (time, row, column).

Dims: P patches, merged in squares of `merge` x `merge`; S tokens of the prompt.
Source: transformers 5.24, `Qwen2VLImageProcessor`, `Qwen2VLModel.get_rope_index`, `vision_utils`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsevlm_trt.runtime.device_array import Tensor
from sparsevlm_trt.runtime.image_config import ImageConfig
from sparsevlm_trt.runtime.image_loader import ImageSource, check_area, load_image
from sparsevlm_trt.runtime.image_processor import ImageProcessor, Pixels
from sparsevlm_trt.runtime.model_spec import VisionSpec
from sparsevlm_trt.runtime.visuals.clip import Clip
from sparsevlm_trt.runtime.visuals.frames import no_videos
from sparsevlm_trt.runtime.visuals.grids import position_table, window_numbers
from sparsevlm_trt.runtime.visuals.sizes import film_size, smart_size
from sparsevlm_trt.runtime.visuals.visual import Visual

__all__ = ["PatchesLayout"]

Index = NDArray[np.int64]
_Sized: TypeAlias = Callable[[tuple[int, int], int, ImageConfig], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class PatchesLayout:
    """Dynamic resolution.

    The settings are `patch_size`, `merge_size`, `temporal_patch_size`; `window_size` where most
    layers of the tower look at a window only; `position_side` where positions are a learned
    square grid that is resampled; `time_steps`, positions per second of a video, 0 for one each.
    With `borders`, which begin and end a frame, each time step of a video stands behind its time.
    """

    spec: VisionSpec
    images: ImageProcessor
    frames: ImageProcessor | None
    placeholder: str
    video_placeholder: str
    borders: tuple[str, str] | None = None

    def image(self, source: ImageSource, alone: bool) -> Visual:
        """Bring an image to whole patches, within the bounds of its number of pixels."""
        pixels = self._resized([source], self.images, smart_size)
        # A still is as long as a patch: every frame of it is the same.
        still = np.repeat(pixels, self.spec.setting("temporal_patch_size"), axis=0)
        return self._visual("image", still, self.placeholder, 1.0)

    def video(self, clip: Clip) -> Visual:
        """Bring all frames to whole patches; two frames or so are one patch deep."""
        if self.frames is None:
            raise no_videos(clip)
        depth = self.spec.setting("temporal_patch_size")
        whole = partial(film_size, num_frames=len(clip.frames), depth=depth)
        pixels = self._resized(clip.frames, self.frames, whole if self.borders else smart_size)
        missing = -len(pixels) % depth
        pixels = np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)])
        steps = self.spec.setting("time_steps")
        interval = steps * depth / clip.frames_per_second if steps else 1.0
        film = self._visual("video", pixels, self.video_placeholder, interval)
        return self._stamped(film, clip.times(depth)) if self.borders else film

    def pack(self, visual: Visual, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Take the features as they are."""
        return [outputs["image_features"][None]]

    def _stamped(self, film: Visual, seconds: Sequence[float]) -> Visual:
        """Put each time step behind its time; source: `Qwen3VLProcessor.replace_video_token`."""
        assert self.borders is not None
        begin, end = self.borders
        tokens = self.video_placeholder * (film.num_tokens // len(seconds))
        text = "".join(f"<{second:.1f} seconds>{begin}{tokens}{end}" for second in seconds)
        return replace(film, text=text, apart=True)

    def _resized(
        self, sources: Sequence[ImageSource], processor: ImageProcessor, sized: _Sized
    ) -> Pixels:
        """Give frames of one size, `[frames, 3, h, w]`."""
        config = processor.config
        opened = [load_image(one, convert_rgb=config.convert_rgb) for one in sources]
        unit = self.spec.setting("patch_size") * self.spec.setting("merge_size")
        height, width = sized((opened[0].height, opened[0].width), unit, config)
        check_area(width, height, "after resizing")
        return np.stack(
            [processor.pixels(one.resize((width, height), config.resample)) for one in opened]
        )

    def _visual(self, kind: str, pixels: Pixels, placeholder: str, interval: float) -> Visual:
        """Cut frames into patches, those that are merged next to each other."""
        patch, merge = self.spec.setting("patch_size"), self.spec.setting("merge_size")
        depth = self.spec.setting("temporal_patch_size")
        time = len(pixels) // depth
        rows, columns = (side // patch for side in pixels.shape[2:])
        cut = pixels.reshape(
            time, depth, 3, rows // merge, merge, patch, columns // merge, merge, patch
        )
        flat = cut.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(time * rows * columns, -1)
        places = _merged_order(rows, columns, merge)
        inputs: dict[str, NDArray[Any]] = {
            "pixel_values": np.ascontiguousarray(flat),
            "patch_positions": np.tile(places, (time, 1)),
            "segments": np.repeat(np.arange(time), rows * columns),
        }
        if window := self.spec.setting("window_size"):
            inputs["windows"] = window_numbers(places, time, window // patch)
        if side := self.spec.setting("position_side"):
            index, weights = position_table(places, (rows, columns), side)
            inputs["table_index"] = np.tile(index, (time, 1))
            inputs["table_weights"] = np.tile(weights, (time, 1))
        count = time * rows * columns // merge**2
        return Visual(
            kind="image" if kind == "image" else "video",
            inputs=inputs,
            num_rows=count,
            num_tokens=count,
            text=placeholder * count,
            size=(pixels.shape[2], pixels.shape[3]),
            cells=(time, rows // merge, columns // merge),
            interval=interval,
        )


def _merged_order(rows: int, columns: int, merge: int) -> Index:
    """Row and column of each patch, `[rows * columns, 2]`, merged ones next to each other."""
    places = np.moveaxis(np.indices((rows, columns)), 0, -1)
    squares = places.reshape(rows // merge, merge, columns // merge, merge, 2)
    ordered: Index = squares.transpose(0, 2, 1, 3, 4).reshape(-1, 2).astype(np.int64)
    return ordered
