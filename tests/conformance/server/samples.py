"""Small contents for fixtures: an image, a sound, embedded texts. Pure.

The suite looks at types and MIME types; the bytes are real files all the same, so that a client
which shows them can.
"""

import base64
import io
import wave

from mcp.types import (
    AudioContent,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
)
from PIL import Image

SAMPLE_RATE_HZ = 8000
SOUND_FRAMES = 800
"""A tenth of a second of silence."""


def text(words: str) -> TextContent:
    """Return words as content."""
    return TextContent(type="text", text=words)


def image_bytes() -> bytes:
    """Return a PNG of one red pixel."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1), "red").save(file, "PNG")
    return file.getvalue()


def image() -> ImageContent:
    """Return that pixel as content."""
    data = base64.b64encode(image_bytes()).decode()
    return ImageContent(type="image", data=data, mime_type="image/png")


def sound() -> AudioContent:
    """Return a short silent WAV as content."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(1)
        written.setframerate(SAMPLE_RATE_HZ)
        # 128 is zero in unsigned 8-bit WAV.
        written.writeframes(bytes([128]) * SOUND_FRAMES)
    data = base64.b64encode(file.getvalue()).decode()
    return AudioContent(type="audio", data=data, mime_type="audio/wav")


def embedded(uri: str, words: str, mime_type: str = "text/plain") -> EmbeddedResource:
    """Return a text that claims to be the resource at `uri`."""
    resource = TextResourceContents(uri=uri, mime_type=mime_type, text=words)
    return EmbeddedResource(type="resource", resource=resource)
