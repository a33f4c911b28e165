"""Pictures of a request: decoded under limits, from a data: URL or an allowed host."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Callable

from PIL import Image, ImageOps

from sparsevlm_trt.runtime.serving.refusal import RefusalError
from sparsevlm_trt.runtime.serving.settings import ImageLimits

__all__ = ["FORMATS", "Fetch", "data_url", "picture_from_bytes", "picture_from_url"]

# Decoders that are offered to strangers; Pillow has dozens more, some of them rarely looked at.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
Fetch = Callable[[str, ImageLimits], bytes]


def picture_from_url(url: str, limits: ImageLimits, fetch: Fetch) -> Image.Image:
    """Read the picture that an `image_url` part names.

    Args:
        url: A data: URL in base64, or an https URL.
        limits: What is allowed.
        fetch: Gets the bytes of an https URL.

    Raises:
        RefusalError: It is another kind of URL, not allowed, too large, or no picture.
    """
    scheme = url[:8].lower()
    if scheme.startswith("data:"):
        return picture_from_bytes(_data_bytes(url, limits), limits)
    if scheme.startswith("https://"):
        return picture_from_bytes(fetch(url, limits), limits)
    raise _refused(
        f"got a URL that begins with {url[:12]!r}", "a data: URL, or https of an allowed host"
    )


def picture_from_bytes(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode one picture upright, as RGB; its size is judged before its pixels are decoded.

    Raises:
        RefusalError: It is too large, or no picture of `FORMATS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns below our own limit
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                _check_pixels(opened, limits)
                upright = ImageOps.exif_transpose(opened)
                return upright.convert("RGB")
    except RefusalError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their parsing ran into
        raise _refused(
            "got bytes that cannot be decoded", f"a picture: {', '.join(FORMATS)}"
        ) from error


def data_url(picture: Image.Image) -> str:
    """Encode a picture as a data: URL."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _check_pixels(opened: Image.Image, limits: ImageLimits) -> None:
    """Refuse a picture by the size in its header."""
    width, height = opened.size
    if width * height > limits.num_pixels:
        raise _refused(f"got {width}x{height} pixels", f"at most {limits.num_pixels} pixels")


def _data_bytes(url: str, limits: ImageLimits) -> bytes:
    """Decode `data:image/png;base64,...`; what the media type claims is not believed."""
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _refused("got a data: URL without base64", "data:image/png;base64,...")
    if len(payload) > limits.size_bytes * 4 // 3 + 4:
        raise _refused("got a larger picture", f"at most {limits.size_bytes} bytes")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused("got broken base64", "data:image/png;base64,...") from error


def _refused(got: str, expected: str) -> RefusalError:
    return RefusalError(
        400, "invalid_image", f"image_url | {got} | expected {expected} | send another picture"
    )
