from __future__ import annotations

from edge_agent.transport.subscriptions import Subscriptions


def test_without_a_session_everything_wanted_is_asked_for_again() -> None:
    subscriptions = Subscriptions()
    subscriptions.want(["a", "b"], 1)
    subscriptions.answered("a", "")
    assert subscriptions.connected(False) == ([("a", 1), ("b", 1)], [])


def test_with_a_session_only_the_difference_is_asked_for() -> None:
    subscriptions = Subscriptions()
    assert subscriptions.want(["a", "b", "c"], 1) == [("a", 1), ("b", 1), ("c", 1)]
    subscriptions.answered("a", "")
    subscriptions.answered("b", "")
    assert subscriptions.drop(["b"]) == ["b"]
    assert subscriptions.connected(True) == ([("c", 1)], ["b"])
    subscriptions.released(["b"])
    assert subscriptions.connected(True) == ([("c", 1)], [])


def test_a_refusal_is_remembered_until_granted_or_dropped() -> None:
    subscriptions = Subscriptions()
    subscriptions.want(["a", "b"], 0)
    subscriptions.answered("a", "Not authorized")
    subscriptions.answered("b", "Not authorized")
    assert subscriptions.refusal("a") == "Not authorized"
    assert subscriptions.connected(True)[0] == [("a", 0), ("b", 0)]
    subscriptions.answered("a", "")
    subscriptions.drop(["b", "never wanted"])
    assert (subscriptions.refusal("a"), subscriptions.refusal("b")) == ("", "")
