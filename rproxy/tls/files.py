"""What TLS is configured by: names of files, in options and in descriptions of endpoints.

Nothing is read here, and nothing is needed for it but Python: :mod:`rproxy.tls.certificates` reads the files.
"""

from __future__ import annotations

import re
from pathlib import Path

from attrs import asdict, evolve, frozen

#: In the place of a file with certificate authorities: those that the system trusts.
SYSTEM = "system"

#: One part of a description of an endpoint: a backslash takes a colon's meaning from it.
_PART = re.compile(r"(?:[^\\:]|\\.)*", re.DOTALL)


class TLSError(ConnectionError):
    """Why a connection with TLS wasn't made, or ended; the text is a sentence for people."""


class CertificatesError(ValueError):
    """A certificate, a key or an authority that can't be used; the text names the file and says what is wrong."""


@frozen
class Files:
    """Where one side's certificates are, each a file in PEM form.

    :ivar ca: the authorities that the other side's certificate must be signed by, or :data:`SYSTEM`; on a listening
        side None, where clients need no certificate.
    :ivar cert: the own certificate, with those between it and its authority behind it; None to show none.
    :ivar key: the key of that certificate, without a passphrase.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


def client_files(option: str, ca: str | None, cert: str | None, key: str | None) -> Files | None:
    """Return what the connecting side's options say; None where none is given.

    :param option: how the options begin, such as ``--tls``.
    :raises ValueError: they don't go together.
    """
    if (cert is None) != (key is None):
        raise ValueError(f"{option}-cert and {option}-key go together: give both, or neither")
    if ca is None and cert is not None:
        raise ValueError(f"{option}-cert and {option}-key need {option}-ca, the authority of the other side")
    return None if ca is None else Files(ca, cert, key)


def split_listen(description: str, default: Files | None = None) -> tuple[str, Files | None]:
    r"""Return the description of the TCP endpoint below, and the files of TLS on top of it, None for plain TCP.

    The form is that of Twisted's ``tcp:`` with up to three parts more, in any order:
    ``tls:8443:interface=10.0.0.1:cert=/etc/rproxy/cert.pem:key=/etc/rproxy/key.pem:ca=/etc/rproxy/ca.pem``. A colon or
    a backslash in a value stands behind a backslash. With ``ca``, clients need a certificate signed by it. A socket of
    systemd's is ``tls:systemd:domain=INET:index=2:cert=…:key=…``.

    :param default: the files of an endpoint that names none.
    :raises ValueError: files are missing; the text says which.
    """
    kind, *parts = _parts(description)
    if kind != "tls":
        return description, None
    given: dict[str, str] = {}
    below = []
    for part in parts:
        name, is_named, value = part.partition("=")
        if is_named and name in {"ca", "cert", "key"}:
            given[name] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        else:
            below.append(part)
    files = Files(**given) if given or default is None else default
    if not (files.cert and files.key):
        raise ValueError(
            f"{description}: TLS needs a certificate and its key, as in tls:8443:cert=cert.pem:key=key.pem"
        )
    if files.ca == SYSTEM:
        # Anybody can have a certificate from one of these.
        raise ValueError(f"{description}: the certificates of clients have to come from an authority of your own")
    # What systemd bound is named in TCP's place.
    transport = [] if below[:1] == ["systemd"] else ["tcp"]
    return ":".join(transport + below), evolve(files, ca=files.ca or None)


def absolute_files(files: Files) -> Files:
    """Return the same files, for who may be in another folder."""
    return Files(
        **{
            name: str(Path(value).absolute()) if value and value != SYSTEM else value
            for name, value in asdict(files).items()
        }
    )


def absolute_listen(description: str) -> str:
    """Return a description that names the same files, for who may be in another folder; see :func:`split_listen`."""
    kind, *parts = _parts(description)
    if kind != "tls":
        return description
    changed = [kind]
    for part in parts:
        name, _, value = part.partition("=")
        if name in {"ca", "cert", "key"} and value:
            path = str(Path(re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)).absolute())
            escaped = re.sub(r"([:\\])", r"\\\1", path)
            changed.append(f"{name}={escaped}")
        else:
            changed.append(part)
    return ":".join(changed)


def _parts(description: str) -> list[str]:
    parts = []
    place = 0
    while place <= len(description):
        found = _PART.match(description, place)
        assert found is not None, "nothing at all is a part too"
        parts.append(found[0])
        place = found.end() + 1
    return parts
