"""Fuzzing of every parser that reads what a peer sent: `python -m tests.fuzz`, or `make fuzz`."""
