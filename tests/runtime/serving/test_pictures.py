"""What a stranger may send as a picture, and where the server goes to fetch one."""

from __future__ import annotations

import base64
import io
import struct
import time
import zlib

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sparsevlm_trt.runtime.serving.pictures import picture_from_bytes, picture_from_url
from sparsevlm_trt.runtime.serving.refusal import RefusalError
from sparsevlm_trt.runtime.serving.remote_pictures import fetch_picture, public_address
from sparsevlm_trt.runtime.serving.settings import ImageLimits

LIMITS = ImageLimits(size_bytes=200_000, num_pixels=100_000, hosts=frozenset({"pics.example"}))


def encoded(kind="PNG", size=(20, 10), **options):
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, kind, **options)
    return file.getvalue()


def no_fetch(url, limits):
    raise AssertionError("no connection may be made")


def url_of(data, head="data:image/png;base64,"):
    return head + base64.b64encode(data).decode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_the_usual_formats_whatever_the_url_calls_them(kind):
    url = url_of(encoded(kind), "data:text/html;base64,")
    picture = picture_from_url(url, LIMITS, no_fetch)
    assert (picture.mode, picture.size) == ("RGB", (20, 10))


def test_a_picture_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture = picture_from_bytes(encoded("JPEG", exif=exif), LIMITS)
    assert picture.size == (10, 20)


def bomb(width, height):
    """A PNG that claims a size, with a few bytes of zeros behind it."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels)


@pytest.mark.parametrize("size", [(1000, 101), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(size):
    started = time.perf_counter()
    with pytest.raises(RefusalError) as refused:
        picture_from_bytes(bomb(*size), LIMITS)
    assert refused.value.status == 400
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data:",
        "data:image/png,abc",
        "data:image/png;base64,",
        "data:image/png;base64,%%%",
        url_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        url_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        url_of(b"GIF89a<script>alert(1)</script>"),
        url_of(encoded()[:40]),
        url_of(b"\0" * 300_000),
        "http://pics.example/a.png",
        "file:///etc/passwd",
        "ftp://pics.example/a.png",
        "gopher://127.0.0.1:6379/_",
        "//pics.example/a.png",
        "/etc/passwd",
        "javascript:alert(1)",
    ],
)
def test_other_urls_and_other_bytes_are_refused(url):
    with pytest.raises(RefusalError) as refused:
        picture_from_url(url, LIMITS, no_fetch)
    assert refused.value.status == 400


@given(st.binary(max_size=200), st.sampled_from([b"", encoded()[:30], encoded("GIF")[:12]]))
def test_bytes_are_a_picture_or_refused(data, head):
    try:
        picture = picture_from_bytes(head + data, LIMITS)
    except RefusalError:
        return
    assert picture.mode == "RGB"


# --- other machines ---


class Network(httpx.MockTransport):
    """Answers in place of the network, and remembers where to."""

    def __init__(self, answer):
        self.asked = []

        def handle(request):
            self.asked.append(request)
            return answer(request)

        super().__init__(handle)


def fetch(url, answer=None, addresses=("93.184.215.14",), limits=LIMITS):
    network = Network(answer or (lambda _: httpx.Response(200, content=iter([encoded()]))))
    resolver = lambda _: list(addresses)  # noqa: E731
    return fetch_picture(url, limits, resolver=resolver, transport=network), network


def test_an_allowed_host_is_asked_at_the_address_that_was_judged():
    data, network = fetch("https://pics.example/a.png?b=1")
    assert data == encoded()
    (request,) = network.asked
    assert request.url.host == "93.184.215.14"
    assert request.headers["Host"] == "pics.example"
    assert request.extensions["sni_hostname"] == "pics.example"
    assert request.url.raw_path == b"/a.png?b=1"


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example/a.png",
        "https://127.0.0.1/a.png",
        "https://[::1]/a.png",
        "https://localhost/a.png",
        "https://pics.example.evil.example/",
        "https://pics.example@127.0.0.1/",
        "https://user:secret@pics.example/",
        "https://pics.example:8443/",
        "https://pics.example:99999/",
        "https://pics.example\\@127.0.0.1/",
        "https://pics.example%00.evil.example/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https:///a.png",
        "https://[::1",
        "https://pics.example/\r\nHost: x",
        "https://pics.example/" + "a" * 3000,
    ],
)
def test_hosts_that_are_not_allowed_get_no_connection(url):
    network = Network(lambda _: httpx.Response(200, content=iter([encoded()])))

    def resolver(host):
        raise AssertionError(f"{host} was looked up")

    with pytest.raises(RefusalError):
        fetch_picture(url, LIMITS, resolver=resolver, transport=network)
    assert not network.asked


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:0:0:0:0:80ff:fffe",
    "nonsense",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_leads_inside_is_refused(address):
    for addresses in ([address], ["93.184.215.14", address]):
        with pytest.raises(RefusalError, match="not public"):
            public_address("pics.example", lambda _, found=addresses: found)


def test_public_addresses_of_both_kinds():
    for address in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"):
        assert public_address("pics.example", lambda _, found=address: [found]) == address


def test_a_name_without_an_address():
    def fail(host):
        raise OSError("no such host")

    for resolver in (fail, lambda _: []):
        with pytest.raises(RefusalError, match="no address"):
            public_address("pics.example", resolver)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status):
    headers = {"Location": "https://169.254.169.254/latest/meta-data"}
    network = Network(lambda _: httpx.Response(status, headers=headers))
    with pytest.raises(RefusalError, match="redirects"):
        fetch_picture(
            "https://pics.example/", LIMITS, resolver=lambda _: ["1.1.1.1"], transport=network
        )
    assert len(network.asked) == 1


def test_a_large_or_slow_answer_is_cut():
    endless = (b"x" * 50_000 for _ in range(1000))
    with pytest.raises(RefusalError, match="larger"):
        fetch("https://pics.example/", lambda _: httpx.Response(200, content=endless))

    def drip():
        while True:
            time.sleep(0.02)
            yield b"x"

    limits = ImageLimits(hosts=LIMITS.hosts, fetch_s=0.1)
    started = time.perf_counter()
    with pytest.raises(RefusalError, match="slow"):
        fetch(
            "https://pics.example/", lambda _: httpx.Response(200, content=drip()), limits=limits
        )
    assert time.perf_counter() - started < 1
