"""The kept-patch picture of a question that flipped, as a data URI."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping

from PIL import Image, ImageDraw

from sparsevlm_trt.runtime.errors import InputError
from sparsevlm_trt.runtime.evaluation.answers import Answer
from sparsevlm_trt.runtime.evaluation.decisions import trace_from_record
from sparsevlm_trt.runtime.evaluation.job import Job
from sparsevlm_trt.runtime.evaluation.questions import Question
from sparsevlm_trt.runtime.evaluation.results import Flip
from sparsevlm_trt.runtime.image_loader import load_image
from sparsevlm_trt.runtime.image_processor import ImageProcessor
from sparsevlm_trt.runtime.overlay import draw_fates
from sparsevlm_trt.runtime.patch_map import patch_map
from sparsevlm_trt.runtime.processor import Processor
from sparsevlm_trt.runtime.trace import Trace

__all__ = ["flip_pictures", "picture_uri"]

SIDE = 224  # pixels, of the longer side on the page
COLOURS = 256
REGION = (255, 210, 0)


def flip_pictures(
    job: Job, known: Mapping[str, Answer], most: int
) -> Callable[[Flip], str | None]:
    """Make the function that draws a flip; it gives None where there is nothing to draw.

    Args:
        job: What was asked.
        known: The answers, by key.
        most: Pictures for each configuration, so that the page does not grow without end.
    """
    drawn: Counter[str] = Counter()
    questions = {question.id: question for question in job.data.questions}
    configs = {config.label: config for config in job.configs}
    processor = Processor(job.bundle)

    def draw(flip: Flip) -> str | None:
        if drawn[flip.config] >= most:
            return None
        drawn[flip.config] += 1
        question = questions[flip.id]
        record = known[job.settings.key(question, configs[flip.config])].decisions
        if record is None or not record["stages"]:
            return None
        images = processor.images
        try:
            return picture_uri(trace_from_record(record), question, images)
        except InputError:  # the image went missing after it was asked about
            return None

    return draw


def picture_uri(trace: Trace, question: Question, images: ImageProcessor) -> str:
    """Draw what the last prune step kept, and the question's region, as a PNG data URI.

    Raises:
        InputError: The image cannot be read.
    """
    image = load_image(question.image)
    (seen,) = images.seen(image)
    drawn = draw_fates(seen, patch_map(trace, -1))
    drawn.thumbnail((SIDE, SIDE))
    # An octree keeps small spots of a rare colour, which may be what was asked about; a median cut
    # blends them away, and makes the file three times as large.
    octree, plain = Image.Quantize.FASTOCTREE, Image.Dither.NONE
    small = drawn.quantize(COLOURS - 1, method=octree, dither=plain)
    box = _seen_box(question, image, images)
    if box is not None:
        # The palette would blend a thin line into the picture, so it gets a colour of its own.
        colours = (small.getpalette() or [])[: 3 * (COLOURS - 1)]
        colours += [0] * (3 * (COLOURS - 1) - len(colours))
        small.putpalette([*colours, *REGION])
        left, top, right, bottom = box
        across, down = small.size
        corners = (left * across, top * down, right * across - 1, bottom * down - 1)
        ImageDraw.Draw(small).rectangle(corners, outline=COLOURS - 1, width=2)
    content = io.BytesIO()
    small.save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _seen_box(
    question: Question, image: Image.Image, images: ImageProcessor
) -> tuple[float, float, float, float] | None:
    """Follow the region through resizing and cropping; shares of the picture seen."""
    if question.region is None:
        return None
    mask = Image.new("RGB", image.size)
    ImageDraw.Draw(mask).rectangle(question.region, fill="white")
    (seen,) = images.seen(mask)
    box = seen.convert("L").point(lambda level: 255 * (level > 127)).getbbox()
    if box is None:
        return None
    left, top, right, bottom = box
    return left / seen.width, top / seen.height, right / seen.width, bottom / seen.height
