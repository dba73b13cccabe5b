"""The templates that are shipped."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from rproxy.ec2.templates import MAX_INLINE, NAMES, load, read_defaults


class TemplatesTests(SynchronousTestCase):
    """What is read of them."""

    def test_shipped(self) -> None:
        """Both are there, as files too, and can be passed along with a call."""
        for name in NAMES:
            template = load(name)
            self.assertEqual(template.body, Path(template.path).read_text("utf-8"))
            self.assertEqual(template.defaults["Policies"], "111,222")
            self.assertFalse(template.is_large)

    def test_defaults(self) -> None:
        """As they are written, whatever YAML would take them for; and tags of CloudFormation are no hindrance."""
        body = (
            "Parameters:\n"
            "  A: {Type: String, Default: no}\n"
            "  B: {Type: Number, Default: 08}\n"
            "  C: {Type: String}\n"
            '  D: {Type: String, Default: ""}\n'
            "Resources:\n"
            "  R: {Type: T, Properties: {P: !Ref A, Q: !If [X, !Sub '${A}', !GetAtt [R, S]], R: !Or [{S: !Ref A}]}}\n"
        )
        self.assertEqual(read_defaults(body), {"A": "no", "B": "08", "C": None, "D": ""})

    def test_large(self) -> None:
        """By its bytes, not its letters."""
        template = load(NAMES[0])
        self.assertFalse(evolve(template, body="é" * (MAX_INLINE // 2)).is_large)
        self.assertTrue(evolve(template, body="é" * (MAX_INLINE // 2) + "x").is_large)
