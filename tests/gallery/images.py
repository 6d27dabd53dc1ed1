"""Images of both kinds the gallery holds: photographs, nearly noise, and flat graphics."""

import io
import os
import struct
import zlib

from PIL import Image, ImageDraw


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), os.urandom(3 * width * height))


def flat(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).ellipse((0, 0, width // 2, height // 2), fill="navy")
    return image


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def claiming(side: int) -> bytes:
    """A few bytes whose header claims a PNG of side x side."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return _png([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")])


def with_a_text_of(size_bytes: int) -> bytes:
    """A PNG with a text chunk that grows to so many bytes when it is unpacked."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    text = b"key\0\0" + zlib.compress(bytes(size_bytes))
    rows = zlib.compress(8 * bytes(25))
    return _png([(b"IHDR", header), (b"zTXt", text), (b"IDAT", rows), (b"IEND", b"")])


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
