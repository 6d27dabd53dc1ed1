"""Image files, good and hostile, and the limits that some of them are beyond."""

import base64
import io
import os
import struct
import zlib
from pathlib import Path

from PIL import Image

MAX_IMAGE_BYTES = 200_000
MAX_IMAGE_PIXELS = 300_000


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def bomb_png(side: int) -> bytes:
    """A few bytes that claim to be an image of side x side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def write_images(folder: Path, outside: Path) -> None:
    """Every file the rows name, good and hostile."""
    good = png(Image.new("RGB", (64, 64), "red"))
    (folder / "good.png").write_bytes(good)
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    (folder / "bomb.png").write_bytes(bomb_png(30_000))
    (folder / "wide.png").write_bytes(bomb_png(1000))
    (folder / "text.png").write_text("this is not an image", encoding="utf-8")
    (folder / "empty.png").write_bytes(b"")
    (folder / "tiny.png").write_bytes(png(Image.new("RGB", (2, 2))))
    (folder / "vector.svg").write_text(
        "<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", encoding="utf-8"
    )
    Image.new("RGB", (64, 64), "red").save(folder / "icon.ico")
    (folder / "huge.png").write_bytes(bytes(MAX_IMAGE_BYTES + 1))
    (folder / "black.png").write_bytes(png(Image.new("L", (64, 64), 0)))
    (folder / "white.png").write_bytes(png(Image.new("L", (64, 64), 255)))
    (folder / "small_mask.png").write_bytes(png(Image.new("L", (32, 16), 255)))
    (folder / "glass.png").write_bytes(png(Image.new("RGBA", (64, 64), (255, 255, 255, 9))))
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe.png")
    (outside / "secret.png").write_bytes(good)
    (folder / "link.png").symlink_to(outside / "secret.png")
