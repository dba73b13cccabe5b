"""A handler for ``twistd rpoolserver --handler``: answers with the payload, without the personal data in it.

What it finds, in this order, becomes ``[e-mail]``, ``[IBAN]``, ``[card]`` and ``[phone]``:

- e-mail addresses: a name, an at sign and a domain with a dot;
- IBANs of the countries in :data:`IBAN_LENGTHS`, if their check digits are right;
- numbers of payment cards, if their last digit is right;
- telephone numbers in an international form, a North American one, or one with an area code that begins with 0. They
  have no check digits, so what only looks like one goes too.

It doesn't know names, postal addresses, dates of birth, or what a sentence says of a person. It doesn't find what
somebody hides (``anna at example dot org``, digits as words or of another script), what is encoded (base64, ``%40``),
or what goes on in the next line. It leaves ``root@localhost`` and ``"anna b"@example.org`` alone. So it is no
anonymisation: it makes an accident less likely.

Everything here takes time in proportion to the payload, whatever that is: each pattern begins only where a word
does, or at a sign, and looks no further than a bounded number of characters, or takes all that it looked at.

A handler is given the payload and nothing else, so it knows neither the policy nor the client. A pool server that has
it and serves one policy is how it is used for that policy only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

#: How many characters the IBANs of each country have, as SWIFT's registry says.
IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})([0-9]{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29"
        " ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20"
        " LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29"
        " PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
        " YE30",
    )
}

# Quantifiers with a second plus sign are possessive: they don't give back what they took, so nothing is tried twice.

#: What the name in an e-mail address may consist of (RFC 5322, and RFC 6532 for other scripts); a domain has less.
_NAME = r"\w.!#$%&'*+/=?^`{|}~\-"
#: A whole run of such characters with an at sign among them: several addresses in one run are one match.
_RUN_WITH_AT = re.compile(rf"(?<![{_NAME}@])[{_NAME}]*+@[{_NAME}@]*+")
_ADDRESS = re.compile(r"[^@]@[\w\-]++\.[\w\-]")
#: What belongs to the sentence where it stands at either end of such a run.
_PUNCTUATION = ".!?'*/`{|}"

#: What may stand between the groups of an IBAN or of a card's number.
_GAP = r"[ \u00a0.\-]"
_END = r"(?![0-9A-Za-z])"
_IBAN_START = re.compile(r"(?<![0-9A-Za-z])(?=[A-Za-z]{2}[0-9]{2})")
#: Card numbers have 13 to 19 digits. Those of all big networks begin with 2 to 6; a time in milliseconds doesn't.
_CARD_START = re.compile(r"(?<![0-9A-Za-z])(?=[2-6][0-9]{3})")
#: In one piece, or in groups as they are printed. The longer form comes first: a security code may follow the shorter.
_CARDS = tuple(
    re.compile(form.replace("_", _GAP) + _END)
    for form in (
        "[0-9]{13,19}",
        "[0-9]{4}_[0-9]{4}_[0-9]{4}_[0-9]{4}_[0-9]{1,3}",
        "[0-9]{4}_[0-9]{4}_[0-9]{4}_[0-9]{4}",
        "[0-9]{4}_[0-9]{6}_[0-9]{4,5}",
        "[0-9]{4}_[0-9]{4}_[0-9]{4}_[0-9]{1,3}",
    )
)

_PHONE = re.compile(
    # +49 (0)30 1234567, 0049 30 1234567: up to 15 digits (E.164).
    r"(?:\+|(?<![0-9A-Za-z])(?<![0-9]\.)00)[1-9](?:[ \u00a0()./\-]{0,3}+[0-9]){6,15}(?![0-9])"
    # (212) 555-0123, 212-555-0123
    r"|(?:\([2-9][0-9]{2}\) ?|(?<![0-9A-Za-z])[2-9][0-9]{2}[ \u00a0.\-])[0-9]{3}[ \u00a0.\-][0-9]{4}(?![0-9A-Za-z])"
    # 01 42 68 53 00
    r"|(?<![0-9A-Za-z])(?<![0-9]\.)0[1-9]([ \u00a0.\-])[0-9]{2}(?:\1[0-9]{2}){3}(?![0-9A-Za-z])"
    # (030) 1234567, 030/1234567, 020 7946 0958, 01234 567 890
    r"|(?:\(0[1-9][0-9]{1,4}\)|(?<![0-9A-Za-z])(?<![0-9]\.)0[1-9][0-9]{1,4})"
    r"[ \u00a0./\-]{1,3}+[0-9]{3,8}(?:[ \u00a0\-][0-9]{2,8}){0,3}(?![0-9A-Za-z])"
    # 01711234567
    r"|(?<![0-9A-Za-z])(?<![0-9]\.)0[1-9][0-9]{8,12}(?![0-9A-Za-z])"
)


def redact(payload: str) -> str:
    """Return the payload with a mark in the place of what was found; this is the handler.

    >>> redact("Anna <anna@example.org>, +49 30 1234567")
    'Anna <[e-mail]>, [phone]'
    >>> redact("IBAN DE89 3704 0044 0532 0130 00, card 4111 1111 1111 1111, order 4111 1111 1111 1112")
    'IBAN [IBAN], card [card], order 4111 1111 1111 1112'
    """
    text = _RUN_WITH_AT.sub(lambda run: _without_addresses(run[0]), payload)
    text = _replaced(text, _IBAN_START, _iban_end, "[IBAN]")
    text = _replaced(text, _CARD_START, _card_end, "[card]")
    return _PHONE.sub("[phone]", text)


def is_iban(text: str) -> bool:
    """Whether letters and digits are an IBAN: of its country's length, and with the right check digits (ISO 13616).

    >>> is_iban("GB82WEST12345698765432"), is_iban("GB82WEST12345698765433")
    (True, False)
    """
    if IBAN_LENGTHS.get(text[:2].upper()) != len(text):
        return False
    # Letters count as two digits, A as 10; the country and the check digits come last.
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def is_luhn(digits: str) -> bool:
    """Whether the last digit is right by Luhn's formula (ISO/IEC 7812-1), which every card's number follows.

    >>> is_luhn("4111111111111111"), is_luhn("4111111111111112")
    (True, False)
    """
    odd, even = digits[-1::-2], digits[-2::-2]
    return (sum(map(int, odd)) + sum(sum(divmod(2 * int(digit), 10)) for digit in even)) % 10 == 0


def _without_addresses(run: str) -> str:
    if not _ADDRESS.search(run):
        return run
    left, right = len(run) - len(run.lstrip(_PUNCTUATION)), len(run.rstrip(_PUNCTUATION))
    return f"{run[:left]}[e-mail]{run[right:]}"


def _replaced(text: str, start: re.Pattern[str], end_of: Callable[[str, int], int], mark: str) -> str:
    """Put a mark in the place of each thing that begins at ``start``, and ends at ``end_of``, which is 0 if it is none.

    What is none is looked through for the next one: ``re.sub`` would pass over what begins inside of it.
    """
    pieces: list[str] = []
    done = 0
    for match in start.finditer(text):
        at = match.start()
        if at >= done and (end := end_of(text, at)):
            pieces += text[done:at], mark
            done = end
    return "".join([*pieces, text[done:]])


@cache
def _iban(length: int) -> re.Pattern[str]:
    return re.compile(rf"[A-Za-z]{{2}}[0-9]{{2}}(?:{_GAP}?+[0-9A-Za-z]){{{length - 4}}}{_END}")


def _iban_end(text: str, at: int) -> int:
    length = IBAN_LENGTHS.get(text[at : at + 2].upper())
    match = _iban(length).match(text, at) if length else None
    return match.end() if match and is_iban(re.sub(_GAP, "", match[0])) else 0


def _card_end(text: str, at: int) -> int:
    for form in _CARDS:
        match = form.match(text, at)
        if match and is_luhn(re.sub(_GAP, "", match[0])):
            return match.end()
    return 0
