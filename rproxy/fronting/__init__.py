"""Connections by way of another proxy, which says by the PROXY protocol whom they really come from.

``header`` reads what it says, and ``protocol`` has it read before a connection's own protocol is made.
"""
