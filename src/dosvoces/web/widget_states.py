"""How a call goes, in the words of the widget: enough to know what to do, nothing of the other party. Pure."""

from dosvoces.store import ConnectionRecord

_SIDES = ("first", "second")


def state_of(record: ConnectionRecord, *, agent_first: bool) -> str:
    """
    `starting calling_visitor visitor_answered calling_agent calling_agent_first joined`, and in the end `ended
    visitor_unreached agent_unreached cancelled failed`.
    """
    if record.outcome is not None:
        return _end(record.outcome, agent_first=agent_first)
    match record.phase:
        case "dialing_first" | "ringing_first":
            return "calling_agent_first" if agent_first else "calling_visitor"
        case "waiting":
            return "calling_agent_first" if agent_first else "visitor_answered"
        case "dialing_second" | "ringing_second":
            return "calling_visitor" if agent_first else "calling_agent"
        case "joining" | "joined":
            return "joined"
        case "releasing" if record.joined_at is not None:
            return "ended"
        case _:
            return "starting"


def _end(outcome: str, *, agent_first: bool) -> str:
    if outcome in ("completed", "cancelled"):
        return "ended" if outcome == "completed" else "cancelled"
    side, _, how = outcome.partition("_")
    if side not in _SIDES:
        return "failed"
    visitor = (side == "first") != agent_first
    if how == "hung_up":
        return "ended" if visitor else "agent_unreached"
    return "visitor_unreached" if visitor else "agent_unreached"
