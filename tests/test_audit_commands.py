"""Tests for ``rproxy audit``."""

from __future__ import annotations

import json
from typing import Any

from tests.auditing import SECRET, TIME, AuditCase


class CommandTests(AuditCase):
    """``rproxy audit``."""

    def setUp(self) -> None:
        super().setUp()
        self.key = self.path.with_name("key")
        self.key.write_bytes(SECRET)
        self.key.chmod(0o600)
        self.lines = self.sample()

    def audit(self, question: str, *arguments: str) -> tuple[int, str, str]:
        return self.run_main("audit", question, "--audit-key", str(self.key), *arguments, str(self.path))

    def test_verify(self) -> None:
        code, out, err = self.audit("verify")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("8 lines, 3 packets, 2 of them written to a server", out)
        self.assertIn("Good: nothing was changed, and every packet reached only servers registered for its policy", out)
        (head,) = (line.split()[-1] for line in out.splitlines() if line.startswith("The last line is 8"))
        self.assertEqual(self.audit("verify", "--expect", head)[0], 0)
        self.assertEqual(self.audit("verify", "--expect", "0" * 64)[0], 1)

    def test_verify_broken(self) -> None:
        self.path.write_bytes(b"".join(self.lines[:5] + self.lines[6:]))
        code, out, _ = self.audit("verify")
        self.assertEqual(code, 1)
        self.assertIn("lines are missing", out)
        self.assertIn("NOT GOOD: 1 fault\n", out)
        code, out, err = self.audit("who", "--client", "1")
        self.assertEqual(code, 1)
        self.assertIn("100", out)
        self.assertIn("NOT GOOD", err)

    def test_json(self) -> None:
        code, out, _ = self.audit("verify", "--json")
        found: Any = json.loads(out)
        self.assertEqual((code, found["ok"], found["proved"], found["seq"]), (0, True, 2, 8))
        code, out, _ = self.audit("servers", "--json", "--policy", "222")
        self.assertEqual(
            json.loads(out)["servers"],
            [
                {
                    "server": "200",
                    "address": "10.0.0.5:5000",
                    "policy": "222",
                    "packets": 1,
                    "first": "2026-01-02T03:04:05.500Z",
                    "last": "2026-01-02T03:04:05.500Z",
                    "registrations": [2],
                }
            ],
        )

    def test_who(self) -> None:
        code, out, err = self.audit("who", "--client", "2")
        self.assertEqual((code, err), (0, ""))
        head, row = out.splitlines()
        self.assertEqual(head.split(), ["SERVER", "ADDRESS", "POLICY", "PACKETS", "FIRST", "LAST", "REGISTRATIONS"])
        self.assertEqual(row.split(), ["200", "10.0.0.5:5000", "222", "1", TIME, TIME, "2"])
        self.assertEqual(self.audit("who", "--client", "3"), (0, "No server received a packet of client 3\n", ""))

    def test_servers(self) -> None:
        code, out, _ = self.audit("servers", "--policy", "111")
        self.assertEqual((code, out.splitlines()[1].split()[0]), (0, "100"))

    def test_usage(self) -> None:
        self.key.chmod(0o644)
        self.assert_usage("is open to everybody", "audit", "verify", "--audit-key", str(self.key), str(self.path))
        self.assert_usage("required: QUESTION", "audit")
        self.assert_usage("required: --audit-key, FILE", "audit", "verify")
        self.assert_usage("64 hexadecimal digits", "audit", "verify", "--expect", "x")

    def test_what_is_no_trail(self) -> None:
        self.path.write_bytes(b"notes\n")
        code, out, err = self.audit("verify")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("is no audit trail", err)
        self.path.unlink()
        self.assertIn("No such file", self.audit("verify")[2])
        self.path.write_bytes(b"")
        self.assertEqual(self.audit("verify")[0], 0)
