"""The smaller commands of ``rproxy``: those that ask and tell a running proxy, by its admin listener
(docs/operating.rst), those about packets, and what installs units and completes in shells.

``asking`` is the way to the listener and back, ``showing`` makes what is answered text; each of the others is a
command, ``packetfiles`` with what others need to read packets too.
"""
