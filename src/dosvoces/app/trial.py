"""Puts trial runs together. Their carrier is a script, their mailbox our own inbox."""

from dosvoces.carriers.fake import FakeCarrier
from dosvoces.carriers.trial import TRIAL_TRUNK, trial_script
from dosvoces.clock import utc_now
from dosvoces.mail.inbox import Inbox
from dosvoces.mail.trial import TrialMailbox
from dosvoces.settings import Settings
from dosvoces.store import Store
from dosvoces.switchboard import Trial


def make_trial(settings: Settings, store: Store) -> Trial:
    """What the connections of test keys work with, whatever trunks and mail servers there are."""
    shown = {number for trunk in settings.trunks for number in trunk.pool}
    return Trial(
        FakeCarrier(trial_script, caller_ids=shown, trunk=TRIAL_TRUNK),
        TrialMailbox(Inbox(store, utc_now)),
    )
