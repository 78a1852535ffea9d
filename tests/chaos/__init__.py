"""
Chaos that anyone can repeat: load on real services whose processes, media workers and database are killed and frozen.

`run.py` drives it and leaves one folder of logs: what the phones, the mail server and the clients saw, what was done to
the services, and what their record claims in the end. `checker.py` reads that folder, later and elsewhere if need be,
and says what was lost, dialled twice, left up or told untruly. `python -m tests.chaos --help` has the command.
"""
