"""Tests for ``rproxy.registry.records``."""

from __future__ import annotations

import json

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rproxy.registry.records import Record, RecordError, decode, encode
from rproxy.registry.registration import Registration
from tests.contract import record

_TEXT = st.text(min_size=1, max_size=20)
_RECORDS = st.builds(
    Record,
    _TEXT,
    _TEXT,
    st.text(max_size=16),
    st.integers(0, (1 << 53) - 1),
    st.none(),
    st.floats(0, 1e9),
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Any record, its registration being of its policy and server."""
    end = draw(_RECORDS)
    terms = st.builds(
        Registration,
        st.just(end.policy),
        st.just(end.server_id),
        _TEXT,
        st.integers(1, 65535),
        st.none() | st.integers(1, 1000),
        st.integers(1, 100),
        st.integers(1, 100),
        st.booleans(),
        st.none() | st.floats(0.1, 1e6),
        st.frozensets(_TEXT, max_size=3),
        st.none() | st.binary(min_size=32, max_size=32),
    )
    return evolve(end, registration=draw(st.none() | terms))


class CodecTests(SynchronousTestCase):
    @given(records())
    def test_there_and_back(self, each: Record) -> None:
        text = encode(each)

        self.assertEqual(decode(text), each)
        self.assertTrue(text.isascii())

    def test_text(self) -> None:
        """As stores have it that other releases wrote; a registration of each kind, and an end."""
        terms = Registration("111", "100", "10.0.0.1", 5000, 16, 4, 3, True, 10.0, frozenset({"b", "a"}), b"\x01\xff")
        classic = Registration("111", "100", "10.0.0.1", 5000)
        begins = '{"policy":"111","id":"100","holder":"here","version":5,"down":0.0,"terms":'
        place = '{"host":"10.0.0.1","port":5000,"pipeline":'
        for registration, text in (
            (None, "null"),
            (
                terms,
                place + '16,"connections":4,"weight":3,"draining":true,"lease":10.0,"names":["a","b"],"token":"01ff"}',
            ),
            (
                classic,
                place + 'null,"connections":8,"weight":1,"draining":false,"lease":null,"names":[],"token":null}',
            ),
        ):
            each = Record("111", "100", "here", 5, registration)
            self.assertEqual(encode(each), begins + text + "}")
            self.assertEqual(decode(begins + text + "}"), each)

    def test_what_is_no_record(self) -> None:
        whole = json.loads(encode(record()))
        for text in (
            "",
            "[]",
            "null",
            "{}",
            json.dumps({**whole, "version": "x"}),
            json.dumps({**whole, "policy": 111}),
            json.dumps({**whole, "terms": {}}),
            json.dumps({**whole, "terms": {**whole["terms"], "host": None}}),
            json.dumps({**whole, "terms": {**whole["terms"], "token": "zz"}}),
        ):
            with self.assertRaisesRegex(RecordError, r"^no record of a registration \([A-Z]\w+Error: .+\)$"):
                decode(text)
        with self.assertRaisesRegex(RecordError, "TypeError: 111 is no text"):
            decode(json.dumps({**whole, "holder": 111}))


class ReplacesTests(SynchronousTestCase):
    def test_the_newer_one(self) -> None:
        self.assertTrue(record(version=2).replaces(record(version=1)))
        self.assertFalse(record(version=1).replaces(record(version=2)))
        self.assertTrue(record().replaces(None))

    def test_an_end_and_what_it_ended(self) -> None:
        self.assertTrue(record().ended().replaces(record()))
        self.assertFalse(record().replaces(record().ended()))
        self.assertFalse(record().ended().replaces(record().ended()))
        self.assertTrue(record(version=2).replaces(record().ended()))

    def test_an_end(self) -> None:
        """Of just that one, or of all until another."""
        down = evolve(record(version=2), down=3.0)
        self.assertEqual(down.ended(), Record("111", "100", "", 2, None))
        self.assertEqual(down.ended(7), Record("111", "100", "", 7, None))

    def test_the_same_one(self) -> None:
        self.assertTrue(evolve(record(), down=3.0).replaces(record()))
