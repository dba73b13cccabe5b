"""A pool server: takes packets, has them handled, and keeps itself registered (docs/protocol.rst)."""
