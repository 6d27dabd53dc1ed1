"""ICC profiles made on the spot: colours, grey and CMYK (ICC.1:2001-04)."""

import struct


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65_536))


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _profile(device_class: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    white = _fixed(0.9642) + _fixed(1.0) + _fixed(0.8249)
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78,
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + white,
    } | tags
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        padded = data + b"\0" * (-len(data) % 4)
        table += struct.pack(">4sII", name, offset + len(body), len(data))
        body += padded
    size = offset + len(body)
    head = (
        struct.pack(">I4sI4s4s4s", size, b"\0" * 4, 0x02400000, device_class, space, pcs)
        + struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
        + b"acsp"
        + b"\0" * 28
        + white
    )
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(gamma: float = 1.0) -> bytes:
    """sRGB's primaries (adapted to D50) with another curve: linear light, if nothing is given."""
    return _profile(
        b"mntr",
        b"RGB ",
        b"XYZ ",
        {
            b"rXYZ": _xyz(0.43607, 0.22249, 0.01392),
            b"gXYZ": _xyz(0.38515, 0.71687, 0.09708),
            b"bXYZ": _xyz(0.14307, 0.06061, 0.71410),
            b"rTRC": _curve(gamma),
            b"gTRC": _curve(gamma),
            b"bTRC": _curve(gamma),
        },
    )


def grey_profile(gamma: float = 1.0) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """A press whose black ink alone counts: no ink is white, all of it black, of any hue."""
    steps = bytes(range(256))
    corners = b""
    for corner in range(16):  # the last input, black, varies fastest
        corners += bytes((0 if corner & 1 else 255, 128, 128))
    table = (
        b"mft1\0\0\0\0"
        + bytes((4, 3, 2, 0))
        + b"".join(map(_fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
        + 4 * steps
        + corners
        + 3 * steps
    )
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})
