"""The smaller commands of ``rproxy``: what asks and tells a running proxy, sends packets, and installs units.

``asking`` is the way to a proxy's admin listener (docs/operating.rst) and back, ``showing`` makes what is answered
text; each of the others is a command. ``packetfiles`` also reads packets for others; ``completing`` is for shells.
"""
