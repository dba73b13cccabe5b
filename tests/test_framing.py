"""A stream is cut into the same objects however it arrives, in bounded memory and with work linear in its bytes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterable
from typing import cast

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rproxy.framing import Framer, StreamError
from rproxy.framing.scanning import Scanner
from rproxy.limits import MAX_DEPTH
from rproxy.packets import peek_data, peek_many_data
from tests.strategies import cut, cuts, objects, rubbish, spaces, streams

BYTE_BY_BYTE = [1]
WHOLE = [1 << 30]
MAX = 64


def reference(text: str) -> list[bytes]:
    """The objects of a text, by the decoder of the standard library, which sees it whole."""
    decoder = json.JSONDecoder()
    found = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        _, end = decoder.raw_decode(text, position)
        found.append(text[position:end].encode())
        position = end
    return found


@define
class Peek:
    """Calls ``decoder``, and counts."""

    decoder: Callable[[bytes], object]
    calls: int = 0
    total: int = 0
    refused: list[int] = field(factory=list)

    def __call__(self, raw: bytes) -> object:
        self.calls += 1
        self.total += len(raw)
        packet = self.decoder(raw)
        if packet is None:
            self.refused.append(len(raw))
        return packet


def nothing(raw: bytes) -> None:
    """A peek that knows no packet: everything is left to the scanner."""


def anything(raw: bytes) -> object:
    """A peek that knows every object."""
    try:
        return json.loads(raw.decode())
    except ValueError:
        return None


def frames(framer: Framer[object]) -> list[bytes]:
    """All that can be taken now."""
    return [raw for raw, _ in iter(framer.next, None)]


def read(
    chunks: Iterable[bytes], peek: Callable[[bytes], object] = nothing, max_packet: int = 1 << 20
) -> list[bytes | str]:
    """What a connection sees that is fed so: frames, and last the code of the error where there was one."""
    framer = Framer(peek, max_packet)
    seen: list[bytes | str] = []
    try:
        for chunk in chunks:
            framer.feed(chunk)
            for raw, _ in iter(framer.next, None):
                seen.append(raw)
    except StreamError as error:
        seen.append(error.code)
    else:
        if framer.in_packet:
            seen.append("unfinished")
    return seen


def held(framer: Framer[object]) -> int:
    """How many bytes of the stream a framer keeps; the brackets that are open (at most 33) are no part of it."""
    kept = [getattr(framer, name) for name in Framer.__slots__]
    kept += [each.partial for each in kept if isinstance(each, Scanner)]
    return sum(len(value) for value in kept if isinstance(value, bytes | bytearray))


class SameFramesTests(SynchronousTestCase):
    """The frames are those of a parser that sees the whole text."""

    @given(streams(), cuts)
    def test_however_the_stream_is_cut(self, text: str, sizes: list[int]) -> None:
        for peek in (nothing, peek_data, anything):
            for pieces in (sizes, BYTE_BY_BYTE, WHOLE):
                self.assertEqual(read(cut(text.encode(), pieces), peek), reference(text), (peek, pieces))

    @given(objects, spaces, objects)
    def test_with_more_behind_it(self, first: str, space: str, second: str) -> None:
        unfinished = (second + space).encode().rstrip()[:-1]
        stream = (first + space).encode() + unfinished
        for peek in (nothing, peek_data, anything):
            for pieces in (BYTE_BY_BYTE, WHOLE):
                self.assertEqual(read(cut(stream, pieces), peek), [first.encode(), "unfinished"])

    @given(streams(), cuts, st.lists(st.integers(0, 2), min_size=1))
    def test_also_where_they_are_taken_late(self, text: str, sizes: list[int], appetites: list[int]) -> None:
        framer: Framer[object] = Framer(anything, 1 << 20)
        taken = []
        for index, chunk in enumerate(cut(text.encode(), sizes)):
            framer.feed(chunk)
            for _ in range(appetites[index % len(appetites)]):
                frame = framer.next()
                taken += [frame[0]] if frame else []
        self.assertEqual(taken + frames(framer), reference(text))

    @given(streams(), cuts)
    def test_each_comes_with_what_peek_made_of_it(self, text: str, sizes: list[int]) -> None:
        framer: Framer[object] = Framer(anything, 1 << 20)
        for chunk in cut(text.encode(), sizes):
            framer.feed(chunk)
            for raw, packet in iter(framer.next, None):
                self.assertEqual(packet, json.loads(raw))

    @given(rubbish, cuts, st.sampled_from([MAX, 200]))
    def test_rubbish_ends_the_same_way_however_it_is_cut(
        self, stream: bytes, sizes: list[int], max_packet: int
    ) -> None:
        for peek in (nothing, anything):
            whole = read([stream], peek, max_packet)
            self.assertEqual(read(cut(stream, sizes), peek, max_packet), whole)
            self.assertEqual(read(cut(stream, BYTE_BY_BYTE), peek, max_packet), whole)

    def test_a_backslash_may_be_the_last_byte_of_a_piece(self) -> None:
        self.assertEqual(read([b'{"a":"\\', b'"}\\', b'\\"}{}']), [b'{"a":"\\"}\\\\"}', b"{}"])

    def test_any_byte_may_follow_a_backslash(self) -> None:
        for byte in (b"\n", b"\r", b"\0", b"}", b'"', b"\xff"):
            packet = b'{"a":"\\' + byte + b'"}'
            for length in range(1, len(packet)):
                self.assertEqual(read([packet[:length], packet[length:] + b"{}"]), [packet, b"{}"])

    def test_a_character_may_be_cut_in_two(self) -> None:
        self.assertEqual(read([b'{"a":"\xe2\x82', b'\xac}"}']), ['{"a":"€}"}'.encode()])


class InPacketTests(SynchronousTestCase):
    """A framer knows whether its stream may end here."""

    def setUp(self) -> None:
        self.framer: Framer[object] = Framer(anything, MAX)

    def fed(self, data: bytes) -> tuple[list[bytes], bool]:
        self.framer.feed(data)
        return frames(self.framer), self.framer.in_packet

    def test_from_the_first_brace_to_the_last(self) -> None:
        self.assertEqual(self.fed(b""), ([], False))
        self.assertEqual(self.fed(b" \r\n\t"), ([], False))
        self.assertEqual(self.fed(b"{"), ([], True))
        self.assertEqual(self.fed(b""), ([], True))
        self.assertEqual(self.fed(b'"a":{}'), ([], True))
        self.assertEqual(self.fed(b"}\n"), ([b'{"a":{}}'], False))
        self.assertEqual(self.fed(b'{}{"a"'), ([b"{}"], True))
        self.assertEqual(self.fed(b":1} {}"), ([b'{"a":1}', b"{}"], False))


class NoObjectTests(SynchronousTestCase):
    """Where no object begins, the stream ends."""

    def test_what_is_no_object(self) -> None:
        for stream in (
            *(b"[]", b'["a"]', b"1", b"-1", b'"text"', b'"{}"', b"true", b"null", b"NaN", b"}", b"]", b",{}", b"x"),
            *(b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"\0", b"\x0b{}", b"\x0c{}", b"\xc2\xa0{}", b"\xe2\x80\xa8{}"),
            *(b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"/* */{}"),
        ):
            for sizes in (BYTE_BY_BYTE, WHOLE):
                for before in (b"", b" \n"):
                    self.assertEqual(read(cut(before + stream, sizes), anything), ["bad-packet"], stream)
                    self.assertEqual(read(cut(before + stream + b"{}", sizes), anything), ["bad-packet"], stream)

    def test_the_objects_before_it_are_read(self) -> None:
        for sizes in (BYTE_BY_BYTE, WHOLE):
            self.assertEqual(read(cut(b'{"a":1},{"b":2}', sizes), anything), [b'{"a":1}', "bad-packet"])


class DepthTests(SynchronousTestCase):
    """An object nests at most 32 deep, itself included."""

    @staticmethod
    def nested(kinds: Iterable[str]) -> bytes:
        """``{`` and ``[`` within each other."""
        text = "0"
        for kind in kinds:
            text = f"[{text}]" if kind == "[" else f'{{"a":{text}}}'
        return f'{{"x":{text}}}'.encode()

    @given(st.lists(st.sampled_from("{["), min_size=MAX_DEPTH - 1, max_size=MAX_DEPTH - 1), cuts)
    def test_32_are_allowed_and_33_are_not(self, kinds: list[str], sizes: list[int]) -> None:
        allowed = self.nested(kinds)
        for peek in (nothing, anything):
            for pieces in (sizes, BYTE_BY_BYTE, WHOLE):
                self.assertEqual(read(cut(allowed * 2, pieces), peek), [allowed, allowed])
        for deeper in ([*kinds, "["], [*kinds, "{"], ["[", *kinds], ["{", *kinds]):
            for pieces in (sizes, BYTE_BY_BYTE, WHOLE):
                self.assertEqual(read(cut(self.nested(deeper), pieces)), ["bad-packet"])

    def test_the_33rd_bracket_is_enough(self) -> None:
        self.assertEqual(read([b'{"x":' + b"[" * (MAX_DEPTH - 1)]), ["unfinished"])
        self.assertEqual(read([b'{"x":' + b"[" * MAX_DEPTH]), ["bad-packet"])

    def test_neighbours_and_texts_are_not_nested(self) -> None:
        for inside in (b"[]," * 100 + b"0", b"[{}]," * 100 + b"0", b'"' + b"[{" * 100 + b'"'):
            packet = b'{"x":[' + inside + b"]}"
            for sizes in (BYTE_BY_BYTE, WHOLE):
                self.assertEqual(read(cut(packet * 2, sizes)), [packet, packet])

    def test_far_too_deep_is_the_same_as_too_deep(self) -> None:
        for peek in (nothing, peek_data):
            self.assertEqual(read([b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"], peek), ["bad-packet"])


class LengthTests(SynchronousTestCase):
    """An object has at most ``max_packet`` bytes, and no more than that is kept of it."""

    @given(st.sampled_from(["x", "}", "{", "é", '\\"', "\\\\"]), cuts)
    def test_exactly_as_long_as_allowed_and_one_byte_longer(self, filling: str, sizes: list[int]) -> None:
        start = b'{"payload":"' + filling.encode() * 10
        fits = start + b"y" * (MAX - len(start) - 2) + b'"}'
        too_long = start + b"y" * (MAX - len(start) - 1) + b'"}'
        for peek in (nothing, peek_data, anything):
            for pieces in (sizes, BYTE_BY_BYTE, WHOLE):
                self.assertEqual(read(cut(fits, pieces), peek, MAX), [fits])
                self.assertEqual(read(cut(fits + too_long, pieces), peek, MAX), [fits, "too-large"])

    @given(cuts)
    def test_white_space_between_is_not_counted(self, sizes: list[int]) -> None:
        packet = b'{"a":"' + b"x" * (MAX - 8) + b'"}'
        space = b" \r\n\t" * MAX
        for pieces in (sizes, BYTE_BY_BYTE, WHOLE):
            self.assertEqual(read(cut(space + packet + space + packet + space, pieces), anything, MAX), [packet] * 2)

    def test_white_space_inside_is_counted(self) -> None:
        self.assertEqual(read([b"{" + b" " * MAX + b"}"], anything, MAX), ["too-large"])

    def test_the_first_byte_too_many_is_enough(self) -> None:
        self.assertEqual(read([b'{"a":"', b"x" * (MAX - 6)], anything, MAX), ["unfinished"])
        self.assertEqual(read([b'{"a":"', b"x" * (MAX - 6), b"x"], anything, MAX), ["too-large"])

    def test_what_follows_the_first_byte_too_many_changes_nothing(self) -> None:
        stream = b'{"a":"' + b"x" * (MAX - 6) + b'":' + b"[" * MAX_DEPTH
        for sizes in (BYTE_BY_BYTE, WHOLE):
            self.assertEqual(read(cut(stream, sizes), anything, MAX), ["too-large"])

    @given(st.integers(1, 200), st.sampled_from([b'{"a":"' + b"x" * 1000, b'{"a":1}' * 200, b" " * 1000]))
    def test_no_more_is_kept_than_one_packet_and_one_feed(self, size: int, stream: bytes) -> None:
        framer: Framer[object] = Framer(nothing, MAX)
        try:
            for chunk in cut(stream, [size]):
                framer.feed(chunk)
                self.assertLessEqual(held(framer), MAX + size)
                frames(framer)
                self.assertLessEqual(held(framer), MAX + size)
        except StreamError as error:
            self.assertEqual(error.code, "too-large")
            self.assertLessEqual(held(framer), MAX + size)

    def test_nothing_is_kept_of_what_was_taken(self) -> None:
        framer: Framer[object] = Framer(nothing, 1 << 20)
        for _ in range(3):
            for chunk in (b'{"a":"' + b"x" * 1000, b'"}', b" "):
                framer.feed(chunk)
                frames(framer)
        self.assertLessEqual(held(framer), 1)


class WorkTests(SynchronousTestCase):
    """No byte is scanned twice, and none is decoded in vain more than once."""

    def work(self, stream: bytes, sizes: list[int], decoder: Callable[[bytes], object]) -> tuple[Framer[object], Peek]:
        """Read the stream, and check what holds for every stream."""
        peek = Peek(decoder)
        framer: Framer[object] = Framer(peek, 1 << 20)
        count = 0
        for chunk in cut(stream, sizes):
            framer.feed(chunk)
            count += len(frames(framer))
        self.assertLessEqual(framer.scanned, len(stream))
        self.assertLessEqual(peek.total, 2 * len(stream))
        self.assertLessEqual(peek.calls, 2 * count + framer.in_packet)
        if decoder is anything:
            self.assertLessEqual(len(peek.refused), count + framer.in_packet)
        return framer, peek

    @given(streams(), cuts)
    def test_for_any_stream_and_any_cut(self, text: str, sizes: list[int]) -> None:
        for decoder in (nothing, peek_data, anything):
            for pieces in (sizes, BYTE_BY_BYTE, WHOLE):
                self.work(text.encode(), pieces, decoder)

    @given(objects, cuts)
    def test_what_is_not_guessed_is_scanned_once(self, text: str, sizes: list[int]) -> None:
        for pieces in (sizes, BYTE_BY_BYTE, WHOLE):
            framer, _ = self.work(f" {text}\n".encode(), pieces, nothing)
            self.assertEqual(framer.scanned, len(text.encode()))

    def test_the_usual_packet_is_decoded_once_and_not_scanned(self) -> None:
        stream = b'{"type":"0","srcid":"1","privPoliId":"111","payload":"xyz1"}\n' * 100
        framer, peek = self.work(stream, WHOLE, peek_data)
        self.assertEqual((framer.scanned, peek.calls, peek.refused), (0, 100, []))

    def test_a_large_packet_byte_by_byte_is_scanned_once_and_decoded_once(self) -> None:
        for filling in (b"x", b"}", b"{", b'\\"', b"\\\\", "é".encode()):
            packet = b'{"type":"0","srcid":"1","privPoliId":"111","payload":"' + filling * 2_000 + b'"}'
            framer, peek = self.work(packet, BYTE_BY_BYTE, peek_data)
            self.assertEqual((framer.scanned, peek.calls, peek.refused), (len(packet), 1, []), filling)

    def test_a_feed_copies_nothing_of_what_came_before(self) -> None:
        framer: Framer[object] = Framer(nothing, 1 << 20)
        # Two feeds, so that there is room for more.
        for chunk in (b'{"a":"' + b"x" * 100_000, b"x"):
            framer.feed(chunk)
            self.assertEqual(frames(framer), [])
        tracemalloc.start()
        try:
            for _ in range(20):
                framer.feed(b"x" * 100)
                self.assertEqual(frames(framer), [])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 50_000)

    def test_a_large_packet_of_small_objects_is_scanned_once(self) -> None:
        packet = b'{"x":[' + b'{"a":"}"},' * 2_000 + b"0]}"
        for sizes in (BYTE_BY_BYTE, [1000], WHOLE):
            framer, peek = self.work(packet, sizes, anything)
            self.assertEqual(framer.scanned, len(packet))
            self.assertLessEqual(peek.calls, 2)

    def test_a_payload_of_closing_braces_costs_one_short_guess(self) -> None:
        packet = b'{"type":"0","srcid":"1","privPoliId":"111","payload":"' + b"}" * 100_000 + b'"}'
        for sizes in ([100], [1000], WHOLE):
            framer, peek = self.work(packet, sizes, peek_data)
            self.assertEqual((framer.scanned, peek.calls, peek.refused), (len(packet), 2, [packet.index(b"}") + 1]))

    def test_packets_together_are_decoded_in_vain_at_most_twice_a_feed(self) -> None:
        """However few are taken at a time: a client may have room for one more after each of its answers."""
        usual = b'{"type":"0","srcid":"1","privPoliId":"111","payload":"xyz1"}'
        numbers = usual.replace(b'"0"', b"0")
        for stream in (usual * 500 + numbers, (usual + numbers) * 250, numbers * 500, usual * 500, b"{}" * 1000):
            for most in (1, 2, 100):
                asked = 0

                def peek_many(chunk: bytes) -> list[tuple[bytes, object]] | None:
                    nonlocal asked
                    asked += len(chunk)
                    return cast(list[tuple[bytes, object]] | None, peek_many_data(chunk))

                framer: Framer[object] = Framer(peek_data, 1 << 20, peek_many)
                for chunk in cut(stream, [5000]):
                    framer.feed(chunk)
                    while len(framer.take(most)) == most:
                        pass
                self.assertLessEqual(asked, 2 * len(stream), (stream[:100], most))

    def test_many_packets_in_one_feed_that_all_fail_the_guess(self) -> None:
        packet = b'{"type":"0","srcid":"1","privPoliId":"111","payload":"' + b"}" * 20 + b'"}'
        framer, peek = self.work(packet * 1000, WHOLE, peek_data)
        self.assertEqual((framer.scanned, peek.calls, len(peek.refused)), (1000 * len(packet), 2000, 1000))

    def test_a_right_guess_that_peek_refused_is_not_asked_again(self) -> None:
        packet = b'{"type":0,"srcid":1,"privPoliId":111,"payload":"xyz1"}'
        _, peek = self.work(packet * 1000, WHOLE, peek_data)
        self.assertEqual((peek.calls, len(peek.refused)), (1000, 1000))

    def test_no_more_is_scanned_than_a_packet_may_have_and_a_byte(self) -> None:
        for sizes in WHOLE, [MAX // 2, 1 << 30]:
            framer: Framer[object] = Framer(nothing, MAX)
            with self.assertRaises(StreamError):
                for chunk in cut(b"{" + b" " * MAX * 9, sizes):
                    framer.feed(chunk)
                    framer.next()
            self.assertEqual(MAX + 1, framer.scanned)

    def test_a_guess_longer_than_allowed_is_not_decoded(self) -> None:
        peek = Peek(anything)
        self.assertEqual(read([b'{"a":"' + b"x" * MAX + b'"}'], peek, MAX), ["too-large"])
        self.assertEqual(peek.calls, 0)


class BracketsTests(SynchronousTestCase):
    """Brackets that don't match end the stream at once: waiting for their end would swallow what comes behind."""

    def test_a_bracket_closed_by_another_kind(self) -> None:
        for text in (b'{"a":[1}', b'{"a":{]', b'{"a":[{}}'):
            for step in (1, len(text)):
                framer: Framer[object] = Framer(nothing, 1 << 20)
                with self.assertRaises(StreamError) as caught:
                    for chunk in cut(text, [step]):
                        framer.feed(chunk)
                        frames(framer)
                self.assertEqual(caught.exception.code, "bad-packet")

    def test_brackets_in_strings_are_no_brackets(self) -> None:
        framer: Framer[object] = Framer(nothing, 1 << 20)
        framer.feed(b'{"a":["}]{[",{"b":"]"}]}')
        self.assertEqual(len(frames(framer)), 1)


Frames = list[tuple[bytes, object]]


def many(chunk: bytes) -> Frames | None:
    """A way to decode together that knows objects back to back, or with one space between them, and no other forms."""
    try:
        raws = reference(chunk.decode())
        spaced = chunk in (b"".join(raws), b" ".join(raws))
    except ValueError:
        return None
    return [(raw, anything(raw)) for raw in raws] if spaced else None


def none_together(chunk: bytes) -> None:
    """Knows no way to decode together."""


class TakeTests(SynchronousTestCase):
    """So many frames at a time are taken as there is room for, and they are always the same."""

    def taken(self, framer: Framer[object], chunks: Iterable[bytes], most: int) -> list[bytes | str]:
        """What a connection sees that takes so many at a time; each comes with its packet."""
        seen: list[bytes | str] = []
        for chunk in chunks:
            framer.feed(chunk)
            self.assertEqual(bool(chunk), framer.unread)
            found = framer.take(most)
            while found:
                self.assertLessEqual(len(found), most)
                self.assertEqual([anything(raw) for raw, _ in found], [packet for _, packet in found])
                seen += [raw for raw, _ in found]
                if len(found) < most:
                    self.assertTrue(framer.error or not framer.unread)
                found = framer.take(most)
            if framer.error is not None:
                return [*seen, framer.error.code]
            self.assertFalse(framer.unread)
        return [*seen, "unfinished"] if framer.in_packet else seen

    @given(streams(), cuts, st.integers(1, 5))
    def test_the_same_as_one_by_one(self, text: str, sizes: list[int], most: int) -> None:
        for together in (none_together, many):
            for pieces in (sizes, BYTE_BY_BYTE, WHOLE):
                framer = Framer(anything, 1 << 20, together)
                self.assertEqual(reference(text), self.taken(framer, cut(text.encode(), pieces), most))

    @given(st.integers(0, 7), st.sampled_from([b"", b" ", b"  ", b"\n"]), st.integers(1, 5), cuts, st.booleans())
    def test_packets_of_clients_that_pipeline(
        self, count: int, space: bytes, most: int, sizes: list[int], spaced: bool
    ) -> None:
        packets = [b'{"a":%d}' % number for number in range(count)]
        stream = space.join(packets) + space * spaced
        for pieces in (sizes, [8 * 3], [8 * 3 + 1], WHOLE):
            framer = Framer(anything, MAX * 4, many)
            self.assertEqual(packets, self.taken(framer, cut(stream, pieces), most))

    @given(rubbish, cuts, st.integers(1, 3), st.sampled_from([MAX, 200]))
    def test_rubbish_ends_the_same_way(self, stream: bytes, sizes: list[int], most: int, max_packet: int) -> None:
        expected = read([stream], anything, max_packet)
        for together in (none_together, many):
            for pieces in (sizes, WHOLE):
                framer = Framer(anything, max_packet, together)
                self.assertEqual(expected, self.taken(framer, cut(stream, pieces), most))

    def test_what_is_cut_is_whole_from_its_first_frame_on(self) -> None:
        for most in (1, 2, 3, 10):
            for behind in (b"", b" ", b'{"d"'):
                chunks = [b'{"a', b'":1}{"b":2}{"c":3}' + behind]
                framer = Framer(anything, 1 << 20, many)
                frames = [b'{"a":1}', b'{"b":2}', b'{"c":3}', *(["unfinished"] if behind[1:] else [])]
                self.assertEqual(frames, self.taken(framer, chunks, most))

    def test_packets_that_came_whole_are_decoded_together(self) -> None:
        for behind in (b"", b" ", b"\n", b'{"d"', b' {"d"'):
            peek = Peek(anything)
            framer = Framer(peek, 1 << 20, many)
            framer.feed(b'{"a":1}{"b":2}{"c":3}' + behind)
            self.assertEqual([b'{"a":1}', b'{"b":2}', b'{"c":3}'], [raw for raw, _ in framer.take(10)])
            self.assertEqual((0, len(behind.strip())), (peek.calls, framer.scanned))

    def test_so_are_those_behind_one_that_was_cut(self) -> None:
        peek = Peek(anything)
        framer = Framer(peek, 1 << 20, many)
        framer.feed(b'{"a')
        self.assertEqual([], framer.take(10))
        framer.feed(b'":1}{"b":2}{"c":3}')
        self.assertEqual([b'{"a":1}', b'{"b":2}', b'{"c":3}'], [raw for raw, _ in framer.take(10)])
        self.assertEqual(1, peek.calls)

    def test_one_that_came_whole_is_decoded_once(self) -> None:
        peek = Peek(anything)
        framer = Framer(peek, MAX, none_together)
        for packet in (b'{"a":1}', b'{"a":"' + b"x" * (MAX - 8) + b'"}'):
            framer.feed(packet)
            self.assertEqual([(packet, anything(packet))], framer.take(1))
            self.assertEqual(([], 0, False), (peek.refused, framer.scanned, framer.unread))
        self.assertEqual(2, peek.calls)

    def test_together_they_are_asked_for_twice_a_feed_and_not_more(self) -> None:
        asked: list[bytes] = []
        framer: Framer[object] = Framer(anything, 1 << 20, asked.append)
        framer.feed(b"{}{ }{  }{")
        self.assertEqual([b"{}"], [raw for raw, _ in framer.take(1)])
        self.assertEqual([b"{ }"], [raw for raw, _ in framer.take(1)])
        self.assertEqual([b"{}{ }{  }", b"{ }{  }"], asked)
        framer.feed(b"}{}")
        self.assertEqual([b"{  }", b"{}", b"{}"], [raw for raw, _ in framer.take(4)])
        self.assertEqual([b"{}{ }{  }", b"{ }{  }", b"{  }{}{}", b"{}{}"], asked)

    def test_what_is_no_more_than_one_packet_is_not_asked_for_together(self) -> None:
        asked: list[bytes] = []
        framer: Framer[object] = Framer(anything, MAX, asked.append)
        for chunk, taken in ((b'{"a":1}', [b'{"a":1}']), (b'{"a":', []), (b"2}", [b'{"a":2}'])):
            framer.feed(chunk)
            self.assertEqual(taken, [raw for raw, _ in framer.take(9)])
        self.assertEqual([], asked)

    def test_one_that_is_as_long_as_allowed_is_decoded_behind_white_space_too(self) -> None:
        packet = b'{"a":"' + b"x" * (MAX - 8) + b'"}'
        framer: Framer[object] = Framer(anything, MAX, none_together)
        framer.feed(b" " + packet)
        self.assertEqual([(packet, anything(packet))], framer.take(1))

    def test_nothing_is_left_when_all_was_taken(self) -> None:
        framer: Framer[object] = Framer(nothing, MAX, none_together)
        framer.feed(b"{}{}")
        self.assertEqual(2, len(framer.take(9)))
        self.assertIsNone(framer.next())

    def test_more_than_a_packet_may_have_is_not_decoded_together(self) -> None:
        asked: list[bytes] = []
        framer: Framer[object] = Framer(anything, 8, asked.append)
        framer.feed(b"{}{}{}{}")
        self.assertEqual(4, len(framer.take(9)))
        self.assertEqual([b"{}{}{}{}", b"{}{}{}"], asked)
        framer.feed(b"{}{}{}{}{}")
        self.assertEqual(5, len(framer.take(9)))
        self.assertEqual([b"{}{}{}{}", b"{}{}{}", b"{}{}{}{}"], asked)

    def test_an_error_comes_after_the_frames_before_it_and_stays(self) -> None:
        for most in (1, 2, 3):
            framer: Framer[object] = Framer(anything, 1 << 20, none_together)
            framer.feed(b'{"a":1} {"b":2},{"c":3}')
            self.assertEqual([b'{"a":1}', b'{"b":2}', "bad-packet"], self.taken(framer, [b" "], most))
            framer.feed(b"{}{}")
            self.assertEqual([], framer.take(most))
            self.assertEqual("bad-packet", framer.error and framer.error.code)

    def test_what_is_no_white_space_is_none_behind_packets_that_came_whole(self) -> None:
        for number in range(1, 4):
            for byte in map(chr, range(0x80)):
                packets = [b'{"a":1}'] * number
                end: list[bytes | str] = []
                if byte not in " \t\r\n":
                    end = ["unfinished" if byte == "{" else "bad-packet"]
                for space in ("", " ", "\n"):
                    framer = Framer(anything, 1 << 20, many)
                    chunk = b"".join(packets) + (space + byte).encode()
                    self.assertEqual([*packets, *end], self.taken(framer, [chunk], 9), chunk)

    def test_why_a_stream_ends_is_said(self) -> None:
        for stream, code, text in (
            (b"x", "bad-packet", "a packet is a JSON object and begins with {"),
            (b"{" + b" " * MAX, "too-large", f"a packet may have at most {MAX} bytes"),
            (b'{"a":[}', "bad-packet", "a bracket is closed by one of another kind"),
            (b'{"":' + b"[" * MAX_DEPTH, "bad-packet", f"a packet may nest at most {MAX_DEPTH} deep"),
        ):
            framer: Framer[object] = Framer(nothing, MAX)
            framer.feed(stream)
            self.assertEqual([], framer.take(1))
            assert framer.error is not None
            self.assertEqual((code, text), (framer.error.code, str(framer.error)))
