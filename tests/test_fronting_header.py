"""The header of the PROXY protocol, whole, cut anywhere, and wrong."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rproxy.fronting.header import Header, HeaderError, TCPSource, UnixSource, read_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
Source = TCPSource | UnixSource | None

ports = st.integers(0, 65535)


def binary(command: int, family: int, body: bytes = b"") -> bytes:
    """A header of version 2."""
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


def tcp(source: str, port: int) -> TCPSource:
    """What is expected of such a peer."""
    address = IPv6Address(source) if ":" in source else None
    return TCPSource(str((address and address.ipv4_mapped) or source), port)


@st.composite
def lines(draw: st.DrawFn) -> tuple[bytes, Source]:
    """Headers of version 1, and whom they name."""
    kind = draw(st.sampled_from(["TCP4", "TCP6", "UNKNOWN", "UNKNOWN ffff::1 whatever 70000"]))
    if kind.startswith("UNKNOWN"):
        return f"PROXY {kind}\r\n".encode(), None
    source, destination = (str(draw(st.ip_addresses(v=4 if kind == "TCP4" else 6))) for _ in range(2))
    port = draw(ports)
    return f"PROXY {kind} {source} {destination} {port} {draw(ports)}\r\n".encode(), tcp(source, port)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[bytes, Source]:
    """Headers of version 2, and whom they name."""
    more = draw(st.binary(max_size=400))
    kind = draw(st.sampled_from(["local", "unspecified", "datagrams", "4", "6", "unix"]))
    if kind == "local":
        return binary(0x20, draw(st.integers(0, 255)), more), None
    if kind == "unspecified":
        return binary(0x21, draw(st.sampled_from([0x00, 0x01, 0x02, 0x10, 0x20, 0x30])), more), None
    if kind == "datagrams":
        return binary(0x21, draw(st.sampled_from([0x12, 0x22, 0x32])), more), None
    if kind == "unix":
        path = draw(st.binary(max_size=107).filter(lambda path: b"\0" not in path[1:] and path != b"\0"))
        return binary(0x21, 0x31, path.ljust(108, b"\0") + bytes(108) + more), UnixSource(path)
    source, destination = (draw(st.ip_addresses(v=4 if kind == "4" else 6)) for _ in range(2))
    port = draw(ports)
    addresses = source.packed + destination.packed + port.to_bytes(2, "big") + draw(ports).to_bytes(2, "big")
    return binary(0x21, 0x11 if kind == "4" else 0x21, addresses + more), tcp(str(source), port)


headers = st.one_of(lines(), blocks())


class HeaderTests(SynchronousTestCase):
    """Headers as the protocol has them."""

    @given(headers, st.binary(max_size=50))
    def test_any_header_cut_anywhere(self, header: tuple[bytes, Source], behind: bytes) -> None:
        """It is whole at its last byte and not before, and what stands behind it isn't looked at."""
        raw, source = header
        came = bytearray()
        for byte in raw:
            self.assertIsNone(read_header(came))
            came.append(byte)
        for whole in (came, came + behind, raw + behind):
            self.assertEqual(read_header(whole), Header(source, len(raw)))

    def test_as_the_specification_shows_it(self) -> None:
        raw = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
        self.assertEqual(read_header(raw + b"GET / HTTP/1.1\r\n"), Header(TCPSource("192.168.0.1", 56324), len(raw)))
        body = IPv4Address("192.168.0.1").packed + IPv4Address("192.168.0.11").packed + b"\xdc\x04\x01\xbb"
        raw = binary(0x21, 0x11, body)
        self.assertEqual(read_header(raw), Header(TCPSource("192.168.0.1", 56324), 28))

    def test_the_longest(self) -> None:
        longest = "ffff:" * 7 + "ffff"
        line = f"PROXY TCP6 {longest} {longest} 65535 65535\r\n".encode()
        self.assertEqual(read_header(line), Header(TCPSource(longest, 65535), 104))
        line = f"PROXY UNKNOWN {longest} {longest} 65535 65535\r\n".encode()
        self.assertEqual(read_header(line), Header(None, 107))
        block = binary(0x20, 0, bytes(65535))
        self.assertEqual(read_header(block), Header(None, 65551))

    def test_ipv4_in_ipv6(self) -> None:
        """The client networks of an operator are those of IPv4, however the other proxy listens."""
        line = b"PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 1 2\r\n"
        self.assertEqual(read_header(line), Header(TCPSource("10.0.0.1", 1), len(line)))

    def test_a_name_in_no_file_system(self) -> None:
        body = b"\0name".ljust(216, b"\0")
        self.assertEqual(read_header(binary(0x21, 0x31, body)), Header(UnixSource(b"\0name"), 232))


class WrongTests(SynchronousTestCase):
    """What is no header."""

    def assert_wrong(self, raw: bytes, sentence: str) -> None:
        """It is refused for this reason: also if it comes byte by byte, and not later than at its end."""
        with self.assertRaisesRegex(HeaderError, sentence):
            read_header(raw)
        with self.assertRaisesRegex(HeaderError, sentence):
            for end in range(len(raw) + 1):
                self.assertIsNone(read_header(raw[:end]))

    def test_no_signature(self) -> None:
        """It shows at the first wrong byte."""
        for raw in (
            b"{",
            b"p",
            b"PROXX",
            b"PROXY\t",
            b"\r\n\r\n\x01",
            b"\r\n\r\n\x00\r\nQUIT\r",
            b"G",
            b"\x16",
        ):
            with self.subTest(raw):
                self.assert_wrong(raw, "doesn't begin with a header of the PROXY protocol")
                self.assertIsNone(read_header(raw[:-1]))

    def test_wrong_lines(self) -> None:
        for text in (
            "TCP5 1.1.1.1 1.1.1.1 1 1",
            "TCP4",
            "TCP4 1.1.1.1 1.1.1.1 1",
            "TCP4 1.1.1.1 1.1.1.1 1 1 1",
            "TCP4  1.1.1.1 1.1.1.1 1 1",
            "TCP4 1.1.1.1 1.1.1.1 1 1 ",
            " TCP4 1.1.1.1 1.1.1.1 1 1",
            "tcp4 1.1.1.1 1.1.1.1 1 1",
            "",
        ):
            with self.subTest(text):
                self.assert_wrong(f"PROXY {text}\r\n".encode(), "has TCP4 or TCP6, two addresses and two ports")

    def test_wrong_addresses(self) -> None:
        for source in ("1.1.1", "1.1.1.256", "01.1.1.1", "::1", "host", "", "1.1.1.1\n", "\xb9.1.1.1"):
            with self.subTest(source):
                self.assert_wrong(f"PROXY TCP4 {source} 1.1.1.1 1 1\r\n".encode(), "has a wrong address")
                self.assert_wrong(f"PROXY TCP4 1.1.1.1 {source} 1 1\r\n".encode(), "has a wrong address")
        for source in ("1.1.1.1", ":::1", "::1%lo", "[::1]", "12345::"):
            with self.subTest(source):
                self.assert_wrong(f"PROXY TCP6 {source} ::1 1 1\r\n".encode(), "has a wrong address")

    def test_wrong_ports(self) -> None:
        for port in ("65536", "-1", "+1", "01", "1.0", "", "123456", "\u0661"):
            with self.subTest(port):
                self.assert_wrong(f"PROXY TCP4 1.1.1.1 1.1.1.1 {port} 1\r\n".encode(), "has a wrong port")
                self.assert_wrong(f"PROXY TCP4 1.1.1.1 1.1.1.1 1 {port}\r\n".encode(), "has a wrong port")

    def test_lines_without_an_end(self) -> None:
        for end in (b"", b"\r", b"\n"):
            with self.subTest(end):
                self.assert_wrong((b"PROXY UNKNOWN" + end).ljust(107, b"x"), "ends within 107 bytes")
        self.assert_wrong(b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n", "ends within 107 bytes")

    def test_wrong_blocks(self) -> None:
        """What their first 16 bytes have wrong shows there, however long they say they are."""
        for command, family, length, sentence in (
            (0x11, 0x11, 12, "version or command: 0x11"),
            (0x31, 0x11, 12, "version or command: 0x31"),
            (0x22, 0x11, 12, "version or command: 0x22"),
            (0x21, 0x41, 12, "family: 0x41"),
            (0x21, 0x13, 12, "family: 0x13"),
            (0x21, 0x11, 11, "too few bytes for its addresses: 11"),
            (0x21, 0x21, 35, "too few bytes for its addresses: 35"),
            (0x21, 0x31, 215, "too few bytes for its addresses: 215"),
        ):
            with self.subTest(sentence):
                self.assert_wrong(binary(command, family, bytes(length))[:16], sentence)

    @given(st.one_of(st.binary(max_size=120), st.binary(max_size=120).map(SIGNATURE.__add__)), st.integers(0, 120))
    def test_whatever_comes(self, raw: bytes, size: int) -> None:
        """It is a header, the beginning of one, or refused; and what was refused isn't taken for one later."""
        try:
            read_header(raw[:size])
        except HeaderError:
            self.assertRaises(HeaderError, read_header, raw)
        else:
            try:
                header = read_header(raw)
            except HeaderError:
                return
            self.assertLessEqual(header.size if header else 0, len(raw))

    @given(st.text("PROXY TCP46UNKNOWN0123456789.:f\r\n", max_size=120).map(str.encode))
    def test_whatever_line_comes(self, text: bytes) -> None:
        """Likewise."""
        self.test_whatever_comes.hypothesis.inner_test(self, b"PROXY " + text, len(text))  # type: ignore[attr-defined]
