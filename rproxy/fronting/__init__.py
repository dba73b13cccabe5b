"""Connections by way of another proxy, which says in a header whom they come from: the PROXY protocol."""
