"""
Dosvoces puts two people on the phone: one request, one e-mail, two calls, joined.

The parts and the direction of their imports are drawn in `docs/architecture.md`.
"""

__version__ = "0.1.0"
