"""What the settings allow, as the record counts it: a part of `app.py`."""

from dosvoces.settings import Settings
from dosvoces.store.ceilings import Ceilings, Most
from dosvoces.store.limits import Quota, TrunkQuota


def quota(settings: Settings) -> Quota:
    """What all nodes together may do."""
    return Quota(
        max_open=settings.dialing.max_open,
        max_per_number=settings.dialing.max_per_number,
        trunks={
            trunk.name: TrunkQuota(trunk.max_calls, trunk.calls_per_second, trunk.max_wait_s)
            for trunk in settings.trunks
            if trunk.max_calls is not None or trunk.calls_per_second is not None
        },
        ceilings=_ceilings(settings),
    )


def _ceilings(settings: Settings) -> Ceilings:
    limits = settings.limits
    return Ceilings(
        calls=Most(limits.calls_per_hour, limits.calls_per_day),
        key=Most(limits.key_calls_per_hour, limits.key_calls_per_day),
        key_max_open=limits.key_max_open,
        source=Most(limits.source_calls_per_hour, limits.source_calls_per_day),
        number=Most(limits.number_calls_per_hour, limits.number_calls_per_day),
        recipient=Most(limits.recipient_mails_per_hour, limits.recipient_mails_per_day),
        domain=Most(limits.domain_mails_per_hour, limits.domain_mails_per_day),
    )
