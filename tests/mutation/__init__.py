"""Whether the tests would notice if the code were wrong: ``python -m tests.mutation``, one mutant after the other."""
