"""TLS on either side: its files, its handshakes, and whom it proves (docs/tls.rst)."""
