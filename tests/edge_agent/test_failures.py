"""What the data path's news means to a deployment: only a release that is to blame has failed."""

from __future__ import annotations

import pytest

from edge_agent.agent import event_of
from edge_agent.contract.errors import Blame, Reason, ReasonCode
from edge_agent.runtime.crew import Notice, NoticeKind
from edge_agent.update.deployment import EventKind

BLAMED = [
    (NoticeKind.FAILED, Blame.RELEASE, EventKind.FAILED),
    (NoticeKind.FAILED, Blame.ENVIRONMENT, EventKind.POSTPONED),
    (NoticeKind.PROVEN, Blame.ENVIRONMENT, EventKind.PROVEN),
]


@pytest.mark.parametrize(("kind", "blame", "expected"), BLAMED)
def test_a_candidate_that_the_environment_ended_is_tried_again(
    kind: NoticeKind, blame: Blame, expected: EventKind
) -> None:
    reason = Reason(code=ReasonCode.BEHIND, message="it waited 5 s for a processor", blame=blame)
    event = event_of(Notice(kind=kind, slot="meter", key=2, reason=reason), alone=False)
    assert (event.kind, event.reasons) == (expected, (reason,))


@pytest.mark.parametrize(("alone", "expected"), [(True, EventKind.LOADED_ALONE), (False, EventKind.LOADED)])
def test_a_loaded_candidate_shadows_unless_it_is_alone(alone: bool, expected: EventKind) -> None:
    assert event_of(Notice(kind=NoticeKind.LOADED, slot="meter", key=2), alone=alone).kind is expected
