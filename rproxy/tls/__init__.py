"""TLS, on either side of a connection (docs/tls.rst).

``keyring`` is for who only has the names of ``files``, and imports the rest when it is asked for: ``certificates`` that
are read from them, ``handshaking`` over any transport, and ``verifying`` whom a connection leads to. ``peers`` has who
is at its other side.
"""
