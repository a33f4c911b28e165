"""Pictures from other machines: only of hosts that the operator named, and never from inside.

The address is judged after the name was resolved, and that very address is connected to: a name
that answers differently the second time gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

import httpx

from sparsevlm_trt.runtime.serving.refusal import RefusalError
from sparsevlm_trt.runtime.serving.settings import ImageLimits

__all__ = ["Resolve", "fetch_picture", "public_address", "resolve"]

Resolve = Callable[[str], list[str]]


def resolve(host: str) -> list[str]:
    """Return all addresses of a host name."""
    found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def fetch_picture(
    url: str,
    limits: ImageLimits,
    *,
    resolver: Resolve = resolve,
    transport: httpx.BaseTransport | None = None,
) -> bytes:
    """Get the bytes of an https URL.

    Args:
        url: Names an allowed host.
        limits: Hosts, size and time allowed.
        resolver: Finds addresses.
        transport: Makes the connection; the network's by default.

    Raises:
        RefusalError: The host is not allowed, its address is not public, it answers with anything
            but a picture's bytes, or too many of them, or too late.
    """
    parts = _checked(url, limits)
    host = str(parts.hostname)
    address = public_address(host, resolver)
    spelled = f"[{address}]" if ":" in address else address
    target = f"https://{spelled}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")
    deadline = time.monotonic() + limits.fetch_s
    try:
        with (
            httpx.Client(
                transport=transport,
                timeout=limits.fetch_s,
                follow_redirects=False,
                trust_env=False,
            ) as client,
            client.stream(
                "GET",
                target,
                headers={"Host": host, "Accept": "image/*", "Accept-Encoding": "identity"},
                extensions={"sni_hostname": host},
            ) as response,
        ):
            if response.status_code != 200:
                raise _refused(f"status {response.status_code}", "200; redirects are not followed")
            return _read(response, limits, deadline)
    except httpx.HTTPError as error:
        raise _refused(type(error).__name__, "an answer in time") from error


def public_address(host: str, resolver: Resolve) -> str:
    """Resolve a host, and refuse it when any of its addresses is not public.

    Raises:
        RefusalError: There is no address, or one of a private, local or reserved range.
    """
    try:
        addresses = resolver(host)
    except OSError as error:
        raise _refused(f"no address of {host!r}", "a host that exists") from error
    for address in addresses:
        if not _is_public(address):
            raise _refused(f"an address of {host!r} that is not public", "a public one")
    if not addresses:
        raise _refused(f"no address of {host!r}", "a host that exists")
    return addresses[0]


def _is_public(address: str) -> bool:
    """Whether an address belongs to the public internet, whatever it is wrapped in."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # an interface behind a %, or no address
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is not None and not _is_public(str(inner)):
            return False
        if found in ipaddress.ip_network("64:ff9b::/96"):  # IPv4 behind a translator
            return False
    return found.is_global and not found.is_multicast


def _checked(url: str, limits: ImageLimits) -> SplitResult:
    """Refuse a URL by its looks."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused("a broken URL", "https://HOST/PATH") from error
    plain = all("!" <= letter <= "~" and letter != "\\" for letter in url)
    if parts.scheme != "https" or not parts.hostname or not plain or len(url) > 2048:
        raise _refused("another kind of URL", "https://HOST/PATH")
    if parts.username is not None or parts.password is not None or port not in (None, 443):
        raise _refused("a URL with a user or a port", "https://HOST/PATH")
    if parts.hostname not in limits.hosts:
        allowed = ", ".join(sorted(limits.hosts)) or "none: send a data: URL"
        raise _refused(f"host {parts.hostname[:80]!r}", f"an allowed one ({allowed})")
    return parts


def _read(response: httpx.Response, limits: ImageLimits, deadline: float) -> bytes:
    """Read a body as far as it is allowed."""
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > limits.size_bytes:
            raise _refused("a larger picture", f"at most {limits.size_bytes} bytes")
        if time.monotonic() > deadline:
            raise _refused("a slow answer", f"all of it within {limits.fetch_s:g} s")
    return bytes(body)


def _refused(got: str, expected: str) -> RefusalError:
    return RefusalError(
        400, "image_not_fetched", f"image_url | got {got} | expected {expected} | send a data: URL"
    )
