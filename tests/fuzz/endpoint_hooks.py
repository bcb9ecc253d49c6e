"""What schemathesis needs to know of our endpoint beyond its own description.

Random bodies would all end at "no such key": requests are made out under the key that the
endpoint knows (`KEY_ID`), and containers are sound ones (`SOUND_BODIES`) with something changed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st

from shared import container
from shared.container import Header

KEY_ID, CONTAINER, SOUND_BODIES = "FUZZ_KEY_ID", "FUZZ_CONTAINER", "FUZZ_SOUND_BODIES"

_sound = [path.read_bytes() for path in sorted(Path(os.environ[SOUND_BODIES]).iterdir())]


@st.composite
def flipped(draw: st.DrawFn) -> bytes:
    """A sound body with a bit or so changed, or cut."""
    body = bytearray(draw(st.sampled_from(_sound)))
    for at, mask in draw(
        st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(1, 255)), max_size=3)
    ):
        body[at] ^= mask
    return bytes(body[: draw(st.sampled_from([len(body), len(body) // 2, 100]))])


@st.composite
def made_up(draw: st.DrawFn) -> bytes:
    """A container with any header and frames, and right checksums."""
    payloads = draw(st.lists(st.binary(max_size=200), max_size=3))
    header = Header(
        scheme=draw(st.sampled_from(["packed", "direct", "ei", "other"])),
        parameters=draw(
            st.dictionaries(
                st.sampled_from(["degree", "prime_bits", "scale_bits", "x"]),
                st.one_of(st.integers(-1, 2**40), st.text(max_size=5), st.floats(allow_nan=True)),
                max_size=4,
            )
        ),
        rows=draw(st.integers(1, 2**40)),
        features=draw(st.sampled_from([1, 64, 65, 2**40])),
        key_id=os.environ[KEY_ID],
        frames=len(payloads),
    )
    return b"".join(container.write(header, payloads))


schemathesis.openapi.media_type(
    container.CONTENT_TYPE, st.one_of(flipped(), made_up(), st.binary(max_size=300))
)


@schemathesis.hook
def before_load_schema(_: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Only the key that is published, in the container where it is."""
    for kind in raw_schema["components"]["schemas"]["EiRequest"]["oneOf"]:
        properties = kind["properties"]
        properties["key_id"] = {"enum": [os.environ[KEY_ID]]}
        properties["container"] = {"enum": [os.environ[CONTAINER]]}
