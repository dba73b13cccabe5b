"""What ``twistd`` can start once rproxy is installed.

Nothing is imported from ``rproxy`` here: twistd drops a plugin that fails to import without a word. What a service
needs is imported by its module, when it is asked for.
"""

from twisted.application.service import ServiceMaker

rproxy = ServiceMaker(
    "rproxy",
    "rproxy.tap",
    "A reverse proxy that routes JSON packets by privacy policy.",
    "rproxy",
)

rpoolserver = ServiceMaker(
    "rproxy pool server",
    "rproxy.pooltap",
    "A pool server that serves privacy policies behind rproxy.",
    "rpoolserver",
)
