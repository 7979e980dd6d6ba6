"""The tree of errors, divided by who must act."""

from __future__ import annotations

import pytest

from edge_agent.contract import errors
from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.errors import (
    Blame,
    FieldcastError,
    Reason,
    ReasonCode,
    UpdateRejected,
    WorkerFailed,
)

REASON = Reason(code=ReasonCode.SIGNATURE, message="unknown key", where="timestamp", blame=Blame.ENVIRONMENT)

# Wire format: reports in the field carry these words.
CODES = (
    "signature expired older wrong_channel malformed format "
    "interpreter requirements columns units model machine space quarantine parameters content size unavailable "
    "start self_test errors output heartbeat exited behind attempts environment operator withdrawn"
)


def test_codes_and_blames_keep_their_words() -> None:
    assert set(CODES.split()) <= {code.value for code in ReasonCode}
    assert [blame.value for blame in Blame] == ["release", "environment", "operator"]


def test_a_reason_reads_as_code_words_and_place() -> None:
    assert str(REASON) == "signature: unknown key (timestamp)"
    assert str(Reason(code=ReasonCode.SPACE, message="full")) == "space: full"


@pytest.mark.parametrize("code", ReasonCode)
def test_a_reason_travels(code: ReasonCode) -> None:
    reason = Reason(code=code, message="m")
    data = encode_json(reason)
    assert decode_json(data, Reason) == reason
    assert b"blame" not in data
    assert decode_json(encode_json(REASON), Reason) == REASON


def test_every_family_is_a_fieldcast_error_and_none_is_another() -> None:
    families = [getattr(errors, name) for name in errors.__all__ if name.endswith(("Error", "Rejected", "Failed"))]
    assert len(families) == 7
    for family in families:
        assert issubclass(family, FieldcastError)
        assert [one for one in families if issubclass(family, one)] in (
            [family],
            [family, FieldcastError],
            [FieldcastError, family],
        )


def test_a_rejection_holds_all_reasons() -> None:
    error = UpdateRejected([REASON, Reason(code=ReasonCode.SIZE, message="too long")])
    assert str(error) == "signature: unknown key (timestamp); size: too long"
    assert error.reasons == (REASON, Reason(code=ReasonCode.SIZE, message="too long"))
    with pytest.raises(ValueError, match="at least one reason"):
        UpdateRejected([])


def test_a_rejection_of_one_reason() -> None:
    error = UpdateRejected.one(ReasonCode.SIGNATURE, "unknown key", where="timestamp", blame=Blame.ENVIRONMENT)
    assert error.reasons == (REASON,)
    assert UpdateRejected.one(ReasonCode.SIZE, "x").reasons[0].blame is Blame.RELEASE


def test_a_failed_worker_says_why() -> None:
    error = WorkerFailed(REASON)
    assert error.reason is REASON
    assert str(error) == str(REASON)
