"""``examples/redacting.py``: what goes, what stays, and how long that takes at worst."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from examples import redacting
from examples.redacting import IBAN_LENGTHS, is_iban, is_luhn, redact

#: One of each, in several forms, and what becomes of it in a sentence.
PERSONAL = {
    "[e-mail]": (
        "anna@example.org",
        "Anna.B+list_7@mail.example.co.uk",
        "o'neill@example.org",
        "jürgen@müller.example",
        "用户@例子.example",
        "a@b@example.org",
        "anna@example.org/bob@example.org",
        "key=anna@example.org",
    ),
    "[IBAN]": (
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "de89-3704-0044-0532-0130-00",
        "GB82 WEST 1234 5698 7654 32",
        "NO93 8601 1117 947",
        "MT84MALT011000012345MTLCAST001S",
        "FR14\u00a02004\u00a01010\u00a00505\u00a00001\u00a03M02\u00a0606",
    ),
    "[card]": (
        "4111111111111111",
        "4111 1111 1111 1111",
        "5500-0000-0000-0004",
        "3782 822463 10005",
        "3056 930902 5904",
        "4222222222222",
        "4222 2222 2222 2",
        "6304 0000 0000 0000 000",
    ),
    "[phone]": (
        "+49 30 1234567",
        "+49 (0)30 / 123-45-67",
        "+14155550123",
        "0049 30 1234567",
        "(030) 1234567",
        "030/1234567",
        "020 7946 0958",
        "01234 567 890",
        "01 42 68 53 00",
        "01711234567",
        "(212) 555-0123",
        "212-555-0123",
    ),
}

#: What looks a little like one of them, and isn't.
IMPERSONAL = (
    "",
    "no numbers at all",
    "@anna wrote to root@localhost",
    "a@ .b @",
    "2 @ 3.50 each",
    "order 4111 1111 1111 1112",
    "4111111111111112",
    "DE88370400440532013000",
    "DE89 3704 1144 1532",
    "XX89370400440532013000",
    "1700000000000 ms",
    "9111111111111111",
    "2024-01-02T10:20:30+01:00",
    "01.02.2024 12:30",
    "192.168.100.100:8000",
    "0.0123456789",
    "b0400cf1f3919fdba057dbd2acc52f148fbb43ac",
    "123e4567-e89b-12d3-a456-426614174000",
    "4711, 12345678, 1,234,567.89",
)

#: What patterns of the careless kind take quadratic or exponential time for.
HOSTILE = (
    "a", "a@", "@", "a.", "@a.", "'@'", "0", "4", "0 ", "4111 ", "4111 1111 1111 1112 ", "DE89", "DE89 ", "+", "+1",
    "+1 ", "+1(", "(", "030 ", "012 345 ", "0 1", "212 555 ", "é", "\N{GRINNING FACE}",
)  # fmt: skip

#: What never belongs to any of them.
NEUTRAL = st.text('xyz ,;:\n"<>', max_size=5)


class RedactTests(SynchronousTestCase):
    """The handler."""

    def test_personal(self) -> None:
        """Each goes, as a whole, and nothing else does."""
        for mark, forms in PERSONAL.items():
            for form in forms:
                for before, after in ("", ""), ("x <", ">."), ("a, ", "\nb"), ("(", "), 7"):
                    with self.subTest(form, before=before):
                        self.assertEqual(redact(f"{before}{form}{after}"), f"{before}{mark}{after}")

    def test_impersonal(self) -> None:
        """It stays."""
        for text in IMPERSONAL:
            self.assertEqual(redact(text), text)

    def test_several(self) -> None:
        """One doesn't hide the next, whatever stands between them."""
        for mark, (first, second, *_) in PERSONAL.items():
            for between in (", ", "\n", " and "):
                self.assertEqual(redact(f"{first}{between}{second}"), f"{mark}{between}{mark}")

    def test_what_follows_a_card(self) -> None:
        """A security code, which could be the end of a longer number."""
        self.assertEqual(redact("4111 1111 1111 1111 123"), "[card] 123")

    def test_card_within_a_card(self) -> None:
        """Where one could begin inside of another, the first one counts."""
        self.assertEqual(redact("4242 4242 4242 4242 4242"), "[card] 4242")

    def test_what_precedes_an_iban(self) -> None:
        """Something that begins like one."""
        self.assertEqual(redact("BE71 DE89 3704 0044 0532 0130 00 EUR"), "BE71 [IBAN] EUR")

    def test_punctuation(self) -> None:
        """What belongs to the sentence stays."""
        self.assertEqual(redact("'anna@example.org'? Or anna@b.example!"), "'[e-mail]'? Or [e-mail]!")

    def test_phone_after_phone(self) -> None:
        """Without anything between them."""
        self.assertEqual(redact("+49301234567+49301234567"), "[phone][phone]")

    @given(NEUTRAL, st.integers(10**11, 10**17 - 1), NEUTRAL)
    def test_cards(self, before: str, number: int, after: str) -> None:
        """With the right last digit it goes, and with any other it stays."""
        digits = f"4{number}"
        last = next(digit for digit in "0123456789" if is_luhn(digits + digit))
        for digit in "0123456789":
            text = f"{before} {digits}{digit} {after}"
            self.assertEqual(redact(text), f"{before} [card] {after}" if digit == last else text)

    @given(st.sampled_from(sorted(IBAN_LENGTHS)), st.text("ABCZ", min_size=30, max_size=30), NEUTRAL)
    def test_ibans(self, country: str, account: str, after: str) -> None:
        """With the right check digits it goes, and with the next ones it stays."""
        account = account[: IBAN_LENGTHS[country] - 4]
        checks = [f"{check:02}" for check in range(2, 99) if is_iban(f"{country}{check:02}{account}")]
        self.assertEqual(len(checks), 1)
        self.assertEqual(redact(f"x {country}{checks[0]}{account} {after}"), f"x [IBAN] {after}")
        wrong = f"x {country}{int(checks[0]) % 97 + 2:02}{account} {after}"
        self.assertEqual(redact(wrong), wrong)

    @given(st.text("a@.DE89 370400440532013000+-()/é4", max_size=60))
    def test_anything(self, payload: str) -> None:
        """Whatever comes is answered, and nothing that it finds is left."""
        redacted = redact(payload)
        for form in "anna@example.org", "DE89370400440532013000", "4111111111111111", "+49301234567":
            self.assertNotIn(form, redact(f"{payload} {form}\n{payload}"))
        self.assertIsInstance(redacted, str)

    def test_hostile(self) -> None:
        """A quarter of a mebibyte of it; if the time grew with the square of that, the run would be ended."""
        for text in HOSTILE:
            self.assertIsInstance(redact((text * (1 << 18))[: 1 << 18]), str)

    def test_docstrings(self) -> None:
        """What they show."""
        results = doctest.testmod(redacting)
        self.assertEqual(results.failed, 0)
        self.assertGreater(results.attempted, 3)
