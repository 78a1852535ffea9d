"""
A lean SIP user agent, sans-I/O but for `transport` and `agent` (RFC 3261).

Imports `sipmessage` and the standard library only, nothing of the rest of the project: it could be its own package.
Times inside are monotonic `float` seconds, given by the caller as `now`.
"""
