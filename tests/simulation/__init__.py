"""
A seeded simulator: the real switchboard, core, SIP driver, recovery and user agent in a world made of dice.

The network, the phones, the mail server, the disk and the clock are simulated (`network`, `phones`, `mail`, `record`,
`clock`); what runs in it (`service`) is the code that ships, real SIP bytes included, on an event loop in virtual time.
What the phones and the mail server saw is held against the invariants in `invariants`.
"""
