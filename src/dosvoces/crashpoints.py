"""
Named moments at which the service can be made to die, so that a test can see what the next process makes of it.

`DOSVOCES_CRASH_AT=k11_first_100_received` ends the process by SIGKILL where the code says `reached` with that name;
with `:3` behind it, when it comes there for the third time. Unset, as it is for whoever uses the service, `reached`
compares two words.
"""

import os
import signal

from dosvoces.errors import SettingsError

VARIABLE = "DOSVOCES_CRASH_AT"

POINTS = {
    "k01_request_read": "the request is read and checked, nothing is recorded",
    "k02_request_recorded": "the connection is in the record",
    "k03_mail_connected": "connected with the mail server",
    "k04_mail_recipient_taken": "the mail server has taken the recipient",
    "k05_mail_data_begun": "the mail server waits for the mail",
    "k06_mail_dot_sent": "the mail and its final dot have left, the answer isn't read",
    "k07_mail_accepted": "the mail server's 250 is read, not recorded",
    "k08_first_about_to_be_intended": "the mail is sent, no intent to dial is recorded",
    "k09_first_intended": "the intent to dial the first party is recorded, no INVITE has left",
    "k10_first_invite_sent": "its INVITE has left",
    "k11_first_100_received": "it was answered with 100",
    "k12_first_180_received": "with 180 or 183: a phone rings",
    "k13_first_200_received": "with 200; no ACK has left",
    "k14_first_up": "its dialog is recorded and the ACK has left",
    "k15_second_about_to_be_intended": "the interval is over, no intent to dial the second party is recorded",
    "k16_second_intended": "as k09, for the second party",
    "k17_second_invite_sent": "as k10",
    "k18_second_100_received": "as k11",
    "k19_second_180_received": "as k12",
    "k20_second_200_received": "as k13",
    "k21_joined": "both hear each other",
    "k22_one_bye_sent": "one BYE of the two has left",
    "k23_outcome_about_to_be_recorded": "both legs are over, the outcome isn't recorded",
    "k24_leftovers_released": "after a restart: CANCEL and BYE have left, nothing is confirmed or settled",
    "k25_webhook_sent": "a webhook has left, its answer isn't recorded",
}
"""What has happened at each, and what hasn't."""


def wanted(text: str) -> tuple[str, int]:
    """A point, and how often it is passed until the process dies there. Raises `SettingsError`."""
    name, _, count = text.partition(":")
    if name not in POINTS or (count and not (count.isdecimal() and int(count))):
        raise SettingsError(f"{VARIABLE} = {text!r} is no point or point:count; the points are {', '.join(POINTS)}")
    return name, int(count or 1)


try:
    _name, _left = wanted(os.environ[VARIABLE])
except (KeyError, SettingsError):  # Whoever starts the service with a wrong one is told so with its settings.
    _name, _left = "", 0


def reached(name: str) -> None:
    """Die here, if that is wanted."""
    if name == _name:
        _die_at_last()


def armed() -> bool:
    """Whether a point was named at all: for what would cost something to watch."""
    return bool(_name)


def _die_at_last() -> None:
    global _left
    _left -= 1
    if _left == 0:
        os.write(2, f"{VARIABLE}: killed at {_name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
