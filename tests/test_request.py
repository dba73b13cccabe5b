"""One packet's way through the proxy: it gets one answer, or its asker is gone."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rproxy.packets import PROXY_ID, Error, decode
from rproxy.request import Refusal, Request


class Client:
    """Whoever asks: when it is told, the answer must be there."""

    def __init__(self) -> None:
        self.request = Request(b"{}", "111", "1", 30.0, self)
        self.answers: list[bytes | None] = []

    def deliver(self, now: float) -> None:
        raise NotImplementedError("a refusal isn't delivered from where it is made")

    def deliver_soon(self) -> None:
        assert self.request.reply is not None
        self.answers.append(self.request.reply)


class RequestTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.client = Client()
        self.request = self.client.request

    @property
    def code(self) -> str | None:
        """The code of the refusal that the request was answered with."""
        return self.request.reply.code if isinstance(self.request.reply, Refusal) else None

    def test_nothing_is_decided_at_first(self) -> None:
        self.assertEqual((None, None), (self.request.reply, self.request.server))
        self.assertEqual([], self.client.answers)

    def test_a_refusal_is_an_error_packet_from_the_proxy_to_its_client(self) -> None:
        self.request.refuse("timeout", "unknown", "The server did not answer in time.")
        self.assertEqual([self.request.reply], self.client.answers)
        self.assertEqual("timeout", self.code)
        text = "The server did not answer in time."
        self.assertEqual(
            Error("3", PROXY_ID, "1", "timeout", "unknown", text, str(len(text))),
            decode(self.request.reply or b""),
        )

    def test_only_the_first_refusal_counts(self) -> None:
        self.request.refuse("timeout", "unknown", "Too late.")
        first = self.request.reply
        self.request.refuse("server-lost", "unknown", "The server is gone.")
        self.assertEqual((first, "timeout"), (self.request.reply, self.code))
        self.assertEqual([first], self.client.answers)

    def test_an_answer_is_not_refused_afterwards(self) -> None:
        self.request.reply = b"an ACK"
        self.request.refuse("timeout", "unknown", "Too late.")
        self.assertEqual((b"an ACK", None), (self.request.reply, self.code))
        self.assertEqual([], self.client.answers)

    def test_whoever_is_gone_hears_nothing_more(self) -> None:
        self.request.abandon()
        self.request.refuse("timeout", "unknown", "Too late.")
        self.assertEqual((b"", None), (self.request.reply, self.code))
        self.assertEqual([], self.client.answers)

    def test_an_answer_that_is_there_outlasts_its_client(self) -> None:
        self.request.refuse("timeout", "unknown", "Too late.")
        first = self.request.reply
        self.request.abandon()
        self.assertEqual((first, "timeout"), (self.request.reply, self.code))
