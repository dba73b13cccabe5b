"""A pool server: it is registered at proxies, takes packets and answers them.

``server`` has the connections that proxies make, ``handling`` gets from a packet to its answer. ``registrar`` keeps it
registered over the connection of ``leasing``, with as much ``patience`` as its proxy needs, and ``service`` starts and
stops all of it in order.
"""
