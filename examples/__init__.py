"""What users of rproxy may begin with; see README.rst. None of it is installed."""
