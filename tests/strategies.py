"""What Hypothesis feeds to the tests, and the profile that it runs under.

The default profile is the same on every machine and in every run: no deadline, no randomness, so that a test that
fails fails because of the change. ``HYPOTHESIS_PROFILE=explore`` looks for news: random, and thirty times as long.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import cycle

from hypothesis import Phase, settings
from hypothesis import strategies as st

settings.register_profile("steady", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("explore", deadline=None, derandomize=False, max_examples=3000)
# For tests that are run hundreds of times to see whether they fail, and not by what: python -m tests.mutation.
settings.register_profile(
    "brief", deadline=None, derandomize=True, max_examples=20, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

#: The white space of RFC 8259.
spaces = st.text(" \t\r\n", max_size=3)

#: Texts full of what a careless reader trips over.
texts = st.text(
    st.sampled_from("{}[]\"\\/:,'\n\r\t\b\0\x1f\x7fu0dé€😀\u2028\ufeff") | st.characters(exclude_categories=["Cs"]),
    max_size=30,
)

#: Ids and policies as text: 1 to 256 printable characters.
ids = st.text(
    st.characters(exclude_categories=["C", "Z"], include_characters=" "),
    min_size=1,
    max_size=20,
)


def values_with(keys: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    """Any JSON value, as Python knows it, with such keys in its objects."""
    return st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 63), (1 << 64) - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=8,
    )


values = values_with(texts)

#: Fields that the protocol doesn't know.
further_fields = st.dictionaries(st.sampled_from("abcdef"), values_with(st.sampled_from("abcdef")), max_size=4)

#: How a stream is cut: the sizes of its pieces, from the beginning again where they don't suffice.
cuts = st.lists(st.integers(1, 4) | st.integers(1, 200), min_size=1, max_size=8)


def cut(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The stream in pieces of these sizes."""
    start = 0
    for size in cycle(sizes):
        if start >= len(stream):
            return
        yield stream[start : start + size]
        start += size


@st.composite
def written(draw: st.DrawFn, value: object) -> str:
    """One of the ways to write a value as JSON: escaped or raw UTF-8, tight, spaced or over several lines."""
    return json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 1])),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n", "\t: ")])),
    )


#: The text of a JSON object, of any fields.
objects = st.dictionaries(texts, values, max_size=4).flatmap(written)


@st.composite
def streams(draw: st.DrawFn) -> str:
    """Objects one after the other, white space between them or not."""
    pieces = draw(st.lists(st.tuples(spaces, objects), max_size=5))
    return "".join(space + text for space, text in pieces) + draw(spaces)


#: Bytes that look like JSON from afar.
rubbish = st.lists(
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b'"', b"\\", b" ", b"\n", b"a", b",", b'{"a":1}', b'{"a":"}"}', b"[" * 16, b"\xff"]
    )
    | st.binary(max_size=2),
    max_size=60,
).map(b"".join)

_KEYS = ("type", "srcid", "destid", "id", "privPoliId", "privPolyId", "payload", "payloadsize", "listenport", "x")
_ODD_VALUES = (
    *('""', "null", "true", "0", "-1", "1.0", "1e0", "01", "+1", "1e400", "NaN", "[]", "{}", '{"payload":"y"}'),
    *("18446744073709551615", "18446744073709551616", "9223372036854775808", "-9223372036854775809", "9" * 400),
    *('"\\u0007"', '"\\u2028"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\x"', '"\x01"', '"\\""', '"\\\\"', '"\ufeff"'),
    *('"' + "k" * 256 + '"', '"' + "k" * 257 + '"', "'1'", '"1', '["', "3", '"3"', '"2"', '"1"', '"0"'),
)


@st.composite
def nearly_packets(draw: st.DrawFn, fields: Mapping[str, object]) -> bytes:
    """A packet with these fields and a payload, after up to three accidents to its keys, values and bytes."""
    pairs = [(f'"{key}"', f'"{value}"') for key, value in fields.items()]
    pairs.append(('"payload"', draw(texts.flatmap(written))))
    pairs += draw(st.sampled_from([[], [('"payloadsize"', '"4"')], [('"payloadsize"', "4")]]))
    pairs = draw(st.permutations(pairs))
    for accident in draw(st.lists(st.sampled_from(["drop", "again", "more", "value", "key"]), max_size=2)):
        at = draw(st.integers(0, len(pairs) - 1))
        key, value = pairs[at]
        if accident == "drop" and len(pairs) > 1:
            del pairs[at]
        elif accident == "again":
            pairs.append((draw(_spelt(key)), value))
        elif accident == "more":
            pairs.append((f'"{draw(st.sampled_from(_KEYS))}"', draw(st.sampled_from(_ODD_VALUES))))
        elif accident == "value":
            pairs[at] = key, draw(st.sampled_from(_ODD_VALUES))
        elif accident == "key":
            pairs[at] = draw(_spelt(key)), value
    space = draw(spaces)
    raw = ("{" + f"{space},".join(f"{key}{space}:{value}" for key, value in pairs) + space + "}").encode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + draw(st.binary(max_size=2) | st.sampled_from([b'"', b"}", b"{", b"\\"])) + raw[at + 1 :]
    return raw


def _spelt(key: str) -> st.SearchStrategy[str]:
    """The key as it is, with an escaped first letter, or in capitals."""
    return st.sampled_from([key, f'"\\u{ord(key[1]):04x}{key[2:]}', key.upper()])
