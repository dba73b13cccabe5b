"""The policies file: what each key says, and where and what each mistake is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.networks import parse_network
from rproxy.policies import ClientRule, Policies, Policy, ServerRule, digest
from rproxy.policies.lines import line_of
from rproxy.policies.reading import PoliciesError, parse, read, read_tokens

EVERY_KEY = """
    [policy.111]
    description = "Numbers are hashed"
    timeout = 2.5
    queue-timeout = 1
    queue-packets = 100
    in-flight = 50
    rate = 1000
    retry = true
    upstream-tls = false

    [policy.111.servers]
    ids = ["100", "101"]
    networks = ["10.0.1.0/24", "fc00::/8"]
    names = ["a.example"]
    token-file = "tokens"

    [policy.111.clients]
    networks = ["10.0.2.0/24"]
    certificate = true
    names = ["b.example"]
"""


def read_text(text: str, tokens: list[str] | None = None) -> Mapping[str, Policy]:
    """What a file of this text says; its token files hold these tokens."""

    def find(name: str) -> list[str]:
        if tokens is None:
            raise ValueError(f"{name} can't be read: Permission denied")
        return tokens

    return parse(dedent(text), find)


class KeyTests(SynchronousTestCase):
    """What is right."""

    def test_every_key(self) -> None:
        policies = read_text(EVERY_KEY, ["secret"])
        self.assertEqual(
            policies,
            {
                "111": Policy(
                    description="Numbers are hashed",
                    servers=ServerRule(
                        frozenset({"100", "101"}),
                        (parse_network("10.0.1.0/24"), parse_network("fc00::/8")),
                        frozenset({"a.example"}),
                        (digest("secret") or b"",),
                    ),
                    clients=ClientRule((parse_network("10.0.2.0/24"),), True, frozenset({"b.example"})),
                    timeout=2.5,
                    queue_timeout=1.0,
                    queue_packets=100,
                    in_flight=50,
                    rate=1000.0,
                    retry=True,
                    upstream_tls=False,
                )
            },
        )

    def test_nothing_said(self) -> None:
        """A policy that is only named exists, and nothing is asked."""
        self.assertEqual(read_text("[policy.111]\n[policy.PP_1]"), {"111": Policy(), "PP_1": Policy()})
        self.assertEqual(read_text("[policy]"), {})
        self.assertEqual(read_text("# nothing"), {})
        self.assertEqual(read_text(""), {})

    def test_nobody(self) -> None:
        """A list with nothing in it lets nobody, which is something else than none."""
        policy = read_text(
            "[policy.1.servers]\nids = []\nnetworks = []\nnames = []\n[policy.1.clients]\nnetworks = []"
        )["1"]
        self.assertEqual(policy.servers, ServerRule(frozenset(), (), frozenset()))
        self.assertEqual(policy.clients, ClientRule(()))

    def test_every_way_to_write_it(self) -> None:
        """TOML has several."""
        expected = {"a.b": Policy(servers=ServerRule(ids=frozenset({"1"})), retry=True)}
        for text in (
            '[policy."a.b"]\nretry = true\nservers.ids = ["1"]',
            '[policy."a.b"]\nretry = true\nservers = {ids = ["1"]}',
            'policy."a.b" = {retry = true, servers = {ids = ["1"]}}',
            "[policy.'a.b']\nretry = true\n[policy.'a.b'.servers]\nids = [\n  '1', # one\n]",
            '[policy."a.b"]\r\nretry = true\r\nservers.ids = [\r\n  """1""",\r\n]\r\n',
        ):
            self.assertEqual(read_text(text), expected, text)

    def test_every_key_is_known_to_the_policy(self) -> None:
        """What the file may say of a policy is what there is to say."""
        from rproxy.policies import reading

        for table, value in ((reading._Servers, ServerRule), (reading._Clients, ClientRule), (reading._Policy, Policy)):
            names = {name.replace("token_file", "tokens") for name in msgspec.structs.asdict(table())}
            self.assertEqual(names, {field.name for field in value.__attrs_attrs__})


class MistakeTests(SynchronousTestCase):
    """What is wrong: the line, and what was expected."""

    def assert_wrong(self, text: str, line: int, sentence: str) -> None:
        with self.subTest(text):
            for ending in ("\n", "\r\n"):
                with self.assertRaises(PoliciesError) as caught:
                    read_text(dedent(text).replace("\n", ending))
                self.assertEqual((caught.exception.line, str(caught.exception)), (line, sentence))

    def test_kinds(self) -> None:
        """A value of another kind, or out of its range."""
        for entry, sentence in {
            "description = 1": "description: expected a text, got a whole number",
            "description = 1979-05-27": "description: expected a text, got a date",
            "timeout = '2'": "timeout: expected a number, got a text",
            "timeout = 0": "timeout: expected a number > 0.0",
            "timeout = -1": "timeout: expected a number > 0.0",
            "timeout = nan": "timeout: expected a number > 0.0",
            "timeout = inf": "timeout: expected a number <= 86400.0",
            "queue-timeout = 86401": "queue-timeout: expected a number <= 86400.0",
            "queue-packets = 0": "queue-packets: expected a whole number >= 1",
            "queue-packets = 1.5": "queue-packets: expected a whole number, got a number",
            "in-flight = true": "in-flight: expected a whole number, got true or false",
            "in-flight = 1000000001": "in-flight: expected a whole number <= 1000000000",
            "rate = 0": "rate: expected a number > 0.0",
            "rate = []": "rate: expected a number, got a list",
            "retry = 1": "retry: expected true or false, got a whole number",
            "upstream-tls = 'no'": "upstream-tls: expected true or false, got a text",
            "servers = ['100']": "servers: expected a table, got a list",
            "servers.ids = '100'": "servers.ids: expected a list, got a text",
            "servers.ids = [100]": "servers.ids: expected a text, got a whole number",
            "servers.ids = ['']": "servers.ids: expected a text of length >= 1",
            "servers.ids = ['\u2028']": r"'\u2028' is no server id: it has 1 to 256 printable characters",
            "servers.names = ['']": "servers.names: expected a text of length >= 1",
            "servers.token-file = ''": "servers.token-file: expected a text of length >= 1",
            "servers.token-file = 't'": "t can't be read: Permission denied",
            "clients.certificate = 'yes'": "clients.certificate: expected true or false, got a text",
            "clients.names = 'a'": "clients.names: expected a list, got a text",
            "clients.networks = ['10.0.0.1/8']": "10.0.0.1/8 has host bits set: give networks such as 10.0.1.0/24",
            "servers.networks = ['fe80::%1/64']":
                "fe80::%1/64 has a zone, which networks are looked at without: give networks such as 10.0.1.0/24",
            "servers.networks = ['pool']":
                "'pool' does not appear to be an IPv4 or IPv6 network: give networks such as 10.0.1.0/24",
        }.items():  # fmt: skip
            self.assert_wrong(f"# a comment\n\n[policy.111]\n\n{entry}\n[policy.222]\n", 5, sentence)

    def test_unknown_keys(self) -> None:
        """A rule that nobody would keep."""
        servers = "expected one of ids, names, networks, token-file"
        self.assert_wrong("[policy.1.servers]\nid = ['1']", 2, f"id is no key that stands here: {servers}")
        self.assert_wrong("[policy.1]\nservers.'i d' = 1", 2, f"i d is no key that stands here: {servers}")
        clients = "expected one of certificate, names, networks"
        self.assert_wrong("[policy.1.clients]\nnames = []\nids = []", 3, f"ids is no key that stands here: {clients}")
        known = (
            "expected one of clients, description, in-flight, queue-packets, queue-timeout, rate, retry, servers,"
            " timeout, upstream-tls"
        )
        self.assert_wrong("[policy.1]\nin_flight = 1", 2, f"in_flight is no key that stands here: {known}")
        self.assert_wrong("[policy.1]\n[policy.1.server]\nx=1", 2, f"server is no key that stands here: {known}")
        self.assert_wrong("[policy.1]\n[policy.PP.1]", 2, f"1 is no key that stands here: {known}")

    def test_tables(self) -> None:
        """What stands outside of policies."""
        self.assert_wrong("policy = 3", 1, "expected tables [policy.NAME], got a value")
        self.assert_wrong("[policy.1]\n[[policies]]\n", 2, "expected tables [policy.NAME], got policies")
        self.assert_wrong("\nz = 1\na = 1", 2, "expected tables [policy.NAME], got z")
        self.assert_wrong("[[policy]]\n", 1, "expected tables [policy.NAME], got a value")
        self.assert_wrong("[policy]\n1 = 5", 2, "expected a table, got a whole number")

    def test_names(self) -> None:
        """Names that no packet could ask for."""
        self.assert_wrong('[policy.1]\n[policy.""]', 2, "'' is no policy: it has 1 to 256 printable characters")
        self.assert_wrong('[policy."a\\nb"]', 1, r"'a\nb' is no policy: it has 1 to 256 printable characters")
        long = "x" * 257
        self.assert_wrong(f"[policy.{long}]", 1, f"'{long}' is no policy: it has 1 to 256 printable characters")

    def test_no_toml(self) -> None:
        """The parser's own sentence, and its line."""
        for text, line, sentence in (
            ("[policy.1]\nretry = yes", 2, r"^this is no TOML: Invalid value \(at line 2, column 9\)$"),
            ("[policy.1]\n[policy.1]", 2, r"^this is no TOML: Cannot declare \('policy', '1'\) twice"),
            ("[policy.1]\nretry = true\nretry = true\n", 3, "^this is no TOML: Cannot overwrite a value"),
            ("[policy.1]\ndescription = 'a\n", 2, "^this is no TOML: "),
            ("[policy.1]\nservers.ids = [\n'a',\n", 3, r"^this is no TOML: .*\(at end of document\)$"),
            ("\ufeff[policy.1]", 1, "^this is no TOML: Invalid statement"),
        ):
            with self.subTest(text), self.assertRaisesRegex(PoliciesError, sentence) as caught:
                read_text(text)
            self.assertEqual(caught.exception.line, line, text)

    def test_beyond_all_bounds(self) -> None:
        """What the parser itself can't take is a mistake like any other."""
        for text in ("a = " + "[" * 100_000, "a = " + "9" * 10_000):
            with self.assertRaisesRegex(PoliciesError, "^this can't be read: ") as caught:
                read_text(text)
            self.assertEqual(caught.exception.line, 0)

    def test_lines(self) -> None:
        """Wherever the value stands, the line is the one that has it; of a list, the one that has the item."""
        host_bits = "10.0.0.1/8 has host bits set: give networks such as 10.0.1.0/24"
        for number, text in enumerate(
            (
                "[policy.1.servers]\nids = [\n'a',\n'b'\n]\nnetworks = ['10.0.0.1/8']#X",
                "[policy.1.servers]\nnetworks = [\n  '10.0.0.0/8', # this\n\n  # and that, [too\n  '10.0.0.1/8',#X\n]",
                "[policy.1.servers]\nnetworks = ['10.0.0.0/8', '10.1.0.0/16'\n,\n'10.0.0.1/8'#X\n, '10.0.0.0/8']",
                "[policy.1.servers]\nnetworks = [#'10.0.0.1/8', 'a'\n\n\n'10.0.0.1/8']#X",
                "policy.1.description = '''\n[policy]\n'''\npolicy.1.servers.networks = ['10.0.0.1/8']#X",
                'policy.1.description = """\\\n  " ]["# \\""""""\npolicy.1.clients.networks = ["10.0.0.1/8"]#X',
                "policy.1 = {description = '[', servers = {ids = ['#'], networks = ['10.0.0.1/8']}}#X",
                "policy.1 = {servers = {networks = [#X\n'10.0.0.1/8'\n]}}\n",
                '[policy.\'#1\'.servers]\n"networks"=["10.0.0.1/8"]#X',
                "[policy.1]\n[policy.2]\n  [ policy . 2 . clients ]\n  networks = ['10.0.0.1/8'] #X\n[policy.3]",
                "[policy.1]\ndescription = \"a\u2028b\x85c\"\nclients.networks = ['10.0.0.1/8']#X",
            )
        ):
            with self.subTest(number):
                line = next(line for line, each in enumerate(text.split("\n"), 1) if "#X" in each)
                self.assert_wrong(text, line, host_bits)

    def test_the_first_item_of_another_kind(self) -> None:
        self.assert_wrong(
            "[policy.1.servers]\nids = [\n'a',\n'b',\n3,\n4]", 5, "servers.ids: expected a text, got a whole number"
        )

    def test_a_long_file(self) -> None:
        """A mistake at the end of it is found without reading it again for each of its lines."""
        ids = "".join(f"  '{number}',\n" for number in range(5_000))
        policies = "".join(f"[policy.{number}]\nretry = true\n" for number in range(500))
        text = f"{policies}[policy.last.servers]\nids = [\n{ids}  5\n]\n"
        self.assert_wrong(text, text.count("\n") - 1, "servers.ids: expected a text, got a whole number")


#: Texts that look like something else in TOML; a double quote ends none of them.
tricky = st.text(st.sampled_from("[]{}#=,.'a \u2028"), min_size=1, max_size=8)
comments = st.lists(st.sampled_from(["", "# [policy.1]", "  # ] } \"\"\" '''", "\t"]), max_size=3)
#: Right keys of a policy, each in one or more lines.
FORMS = (
    'description = "@"',
    'description = """\n@\n# [policy.1]\n[x]\n"""',
    "'retry' = true",
    "clients = { networks = ['10.0.0.0/8', '::/0'], names = [\"@\"] }",
    'clients = { names = [\n# } ]\n"@",\n\'x\'] } # "',
    'servers.names = [ # [\n\n"@", "@",\n\'y\'\n,] # = [',
)
entries = st.builds(lambda form, text: form.replace("@", text), st.sampled_from(FORMS), tricky)


def key_of(entry: str) -> str:
    """The key that may stand only once."""
    return entry.split(maxsplit=1)[0]


class AnyLineTests(SynchronousTestCase):
    """The line is found wherever a mistake is."""

    @given(
        st.lists(st.tuples(comments, st.lists(entries, max_size=3, unique_by=key_of)), max_size=4),
        st.data(),
        st.booleans(),
    )
    def test_generated(self, tables: list[tuple[list[str], list[str]]], data: st.DataObject, windows: bool) -> None:
        """One key that isn't one, among right ones."""
        parts = ["[policy.bad]"]
        for number, (before, body) in enumerate(tables):
            parts += [*before, f"[policy.{number}]", *body]
        place = data.draw(st.integers(1, len(parts)))
        parts.insert(place, "mistake = 1")
        line = "\n".join(parts[: place + 1]).count("\n") + 1
        with self.assertRaises(PoliciesError) as caught:
            parse("\n".join(parts).replace("\n", "\r\n" if windows else "\n"), lambda name: [])
        self.assertEqual(caught.exception.line, line)
        self.assertRegex(str(caught.exception), "^mistake is no key")

    @given(st.lists(st.tuples(comments, tricky), min_size=1, max_size=6), st.data())
    def test_generated_items(self, items: list[tuple[list[str], str]], data: st.DataObject) -> None:
        """One item of a list that isn't one, among right ones."""
        wrong = data.draw(st.integers(0, len(items) - 1))
        text = "[policy.1.servers]\nnames = ["
        line = 0
        for number, (before, name) in enumerate(items):
            text += "".join(f"{comment}\n" for comment in before if comment)
            if number == wrong:
                line = text.count("\n") + 1
            text += ("17" if number == wrong else f'"{name}"') + data.draw(st.sampled_from([",", ", ", "\n,\n"]))
        with self.assertRaises(PoliciesError) as caught:
            parse(text + "]", lambda name: [])
        self.assertEqual(caught.exception.line, line, text)

    def test_lists_in_lists(self) -> None:
        """Only the commas of the list itself count."""
        text = "a = [\n[1, 2],\n3,\n]\n"
        self.assertEqual([line_of(text, ("a", number)) for number in (0, 1)], [2, 3])

    def test_what_is_not_there(self) -> None:
        """The innermost table that is there."""
        text = "[policy.1]\n[policy.2]\n[policy.2.servers]\n"
        self.assertEqual(line_of(text, ("policy", "2", "servers", "ids", 3)), 3)
        self.assertEqual(line_of(text, ("policy", "2", "clients")), 2)
        self.assertEqual(line_of(text, ("other", "2")), 1)
        self.assertEqual(line_of("", ("other",)), 1)


class FileCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))

    def write(self, name: str, text: str | bytes, mode: int = 0o600) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path


class ReadTests(FileCase):
    """The file itself."""

    def test_read(self) -> None:
        """What it says nothing of stays."""
        base = Policies(register_from=(parse_network("10.0.0.0/8"),))
        policies = read(self.write("policies.toml", "[policy.111]\n"), base)
        self.assertEqual(policies, Policies(register_from=base.register_from, by_name={"111": Policy()}))

    def test_unreadable(self) -> None:
        """Its name, and why."""
        for path, why in {
            self.folder / "missing": "No such file or directory",
            self.folder: "Is a directory",
            self.write("latin", b"[policy.\xe9]"): "'utf-8' codec can't decode",
        }.items():
            with self.assertRaises(PoliciesError) as caught:
                read(path, Policies())
            self.assertTrue(str(caught.exception).startswith(f"{path}: can't be read: {why}"), str(caught.exception))
            self.assertEqual(caught.exception.line, 0)

    def test_mistake(self) -> None:
        """Its name and the line, as compilers give them."""
        path = self.write("policies.toml", "[policy.111]\nretry = 1\n")
        with self.assertRaises(PoliciesError) as caught:
            read(path, Policies())
        self.assertEqual(str(caught.exception), f"{path}:2: retry: expected true or false, got a whole number")
        self.assertEqual(caught.exception.line, 2)


class TokenFileTests(FileCase):
    """The files that the file names."""

    def test_tokens(self) -> None:
        """One a line; an old one and a new one may both do."""
        self.assertEqual(read_tokens(self.write("tokens", "old one\n\n  new \r\n")), ["old one", "new"])

    def test_relative_to_the_file(self) -> None:
        """Wherever the process is."""
        self.write("secrets/tokens", "secret\n")
        file = self.write("policies.toml", "[policy.111]\nservers.token-file = 'secrets/tokens'\n")
        for path in (file, Path(os.path.relpath(file))):
            policy = read(path, Policies()).get("111")
            assert policy is not None
            self.assertEqual(policy.servers.tokens, (digest("secret"),))
        absolute = self.write("absolute.toml", f"[policy.111]\nservers.token-file = '{self.folder}/secrets/tokens'\n")
        self.assertEqual(read(absolute, Policies()), read(file, Policies()))

    def test_mistakes(self) -> None:
        """Each is told with the line that names the file, and none shows a token."""
        file = self.write("policies.toml", "[policy.111.servers]\nids = []\ntoken-file = 'tokens'\n")
        tokens = self.folder / "tokens"
        open_to_all = f"is open to everybody: close it by: chmod o-rwx {tokens}"
        for text, mode, sentence in (
            (None, 0, f"the token file {tokens} can't be read: No such file or directory"),
            ("", 0o600, f"{tokens} has no token: put one into it, in a line of its own"),
            (" \n\r\n", 0o640, f"{tokens} has no token: put one into it, in a line of its own"),
            # Who may only write puts in a token of their own.
            *(("secret", mode, f"the token file {tokens} {open_to_all}") for mode in (0o604, 0o644, 0o602)),
            ("a\nse\tcret", 0o600, f"no server can give a token of {tokens}: it has 1 to 256 printable characters"),
            ("x" * 257, 0o600, f"no server can give a token of {tokens}: it has 1 to 256 printable characters"),
        ):
            if text is not None:
                self.write("tokens", text, mode)
            with self.subTest(text), self.assertRaises(PoliciesError) as caught:
                read(file, Policies())
            self.assertEqual(str(caught.exception), f"{file}:3: {sentence}")
        self.write("tokens", b"\xff", 0o600)
        with self.assertRaisesRegex(PoliciesError, "the token file .*tokens is no text in UTF-8$"):
            read(file, Policies())

    def test_no_file(self) -> None:
        """Nobody waits for who writes to a pipe: the proxy reads it again while it works."""
        file = self.write("policies.toml", "[policy.111]\nservers.token-file = 'tokens'\n")
        tokens = self.folder / "tokens"
        for make in (tokens.mkdir, lambda mode: os.mkfifo(tokens, mode)):
            make(0o700)
            with self.assertRaisesRegex(PoliciesError, "tokens is no regular file"):
                read(file, Policies())
            (tokens.rmdir if tokens.is_dir() else tokens.unlink)()

    def test_a_name_that_is_none(self) -> None:
        file = self.write("policies.toml", '[policy.111]\nservers.token-file = "a\\u0000b"\n')
        with self.assertRaisesRegex(PoliciesError, "policies.toml:2: .*embedded null"):
            read(file, Policies())
