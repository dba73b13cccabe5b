"""The templates that are shipped, and what they ask for.

A template's text goes to CloudFormation as it is. It is read here for its parameters alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from attrs import frozen

from rproxy.ec2.errors import FailedError

#: What --template may say, the usual one first, and the files.
FILES = {"one": "rproxy.yaml", "scale": "rproxy-scale.yaml"}
NAMES = tuple(FILES)
#: Bytes of a template that are passed along with a call. CloudFormation takes 51,200 in that way, and more from S3.
MAX_INLINE = 50_000


@frozen
class Template:
    """A template.

    :ivar name: one of :data:`NAMES`.
    :ivar path: where its file is.
    :ivar defaults: its parameters, in their order, with their defaults; None for one that must be given.
    """

    name: str
    path: str
    body: str
    defaults: Mapping[str, str | None]

    @property
    def is_large(self) -> bool:
        """Whether it has to be passed by way of S3."""
        return len(self.body.encode()) > MAX_INLINE


def load(name: str) -> Template:
    """Return the template of that name.

    :raises FailedError: PyYAML isn't there.
    """
    file = files("rproxy") / "etc" / "ec2" / FILES[name]
    body = file.read_text("utf-8")
    return Template(name, str(file), body, read_defaults(body))


def read_defaults(body: str) -> dict[str, str | None]:
    """Return the parameters of a template, and their defaults.

    :raises FailedError: PyYAML isn't there.
    """
    try:
        import yaml
    except ImportError:
        raise FailedError("it needs PyYAML: pip install boto3 PyYAML") from None

    class Loader(yaml.BaseLoader):
        """Takes each value for the text that it is, as CloudFormation does, and leaves out what is tagged."""

    def leave_out(loader: Any, suffix: str, node: Any) -> None:
        """Nothing that matters here is tagged."""

    Loader.add_multi_constructor("!", leave_out)
    read = yaml.load(body, Loader)
    return {name: each.get("Default") for name, each in read["Parameters"].items()}
