"""What processes say, line by line: the service's log, and the access log (docs/logs.rst)."""
