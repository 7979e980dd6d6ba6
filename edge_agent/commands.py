"""Commands of operators to this device (T8): which are carried out, which are refused, and what is answered.

A command is signed by an operator whom the signed metadata of a channel lists now, and names fleet, device, this run of
the agent and where the answer goes. The issuer's counter is written down before anything is done, so nothing is done
twice. What is done is what an operator at the device could ask for; nothing here runs code. Every refusal is counted,
told in the report and logged; an answer goes only to who has proven to be an operator.
"""

from __future__ import annotations

import logging
import queue
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from edge_agent import ed25519
from edge_agent.config import Config
from edge_agent.contract.dsse import Sealed, Signer
from edge_agent.contract.errors import StoreError, TransportError
from edge_agent.contract.messages import Topics
from edge_agent.contract.reports import COMMAND_SECONDS_MAX, COMMANDS, Answer, Command, encode, parse
from edge_agent.contract.verification import Operator
from edge_agent.transport.client import Client
from edge_agent.update.store import Store

__all__ = ["Commands", "refusal"]

log = logging.getLogger(__name__)
INBOX_MAX = 16
WHY_MAX, WORDS_MAX = 300, 1_000
# What is asked of the updater through the store, like a request by `edge-agent`, and what it is about.
REQUESTS = {kind: arguments for kind, arguments in COMMANDS.items() if arguments}


def refusal(
    command: Command,
    operator: Operator | None,
    *,
    fleet: str,
    device: str,
    session: str,
    allowed: Sequence[str],
    counter: int,
    now: float,
) -> str:
    """Return why a command whose signature holds is not carried out, empty if it is.

    `operator` is whose key it is where the command is to act, `counter` the last one of that key that was taken, and
    `now` (seconds UTC) never below the floor clock.
    """
    if (command.fleet, command.device) != (fleet, device):
        return f"foreign: it is for device {command.device} of fleet {command.fleet}"
    if operator is None or operator.name != command.issuer:
        return f"unknown: its key is not listed there for an operator {command.issuer}"
    if command.counter <= counter:
        return f"replayed: number {counter} of {command.issuer} was taken already, this is {command.counter}"
    if command.session != session:
        return "foreign: it is for another run of this agent"
    if not command.issued < command.expires <= command.issued + COMMAND_SECONDS_MAX:
        return f"expired: a command is good for {COMMAND_SECONDS_MAX} s at most"
    if now > command.expires:
        return f"expired: {now - command.expires:.0f} s ago by this device's clock"
    if command.type not in operator.scope:
        return f"out of scope: {command.issuer} may send {', '.join(operator.scope) or 'nothing'}"
    if command.type not in allowed:
        return f"not allowed: this device takes {', '.join(allowed) or 'no command'} ([commands] allow)"
    wanted = COMMANDS.get(command.type)
    if wanted is None:
        return "unknown: this agent cannot do that"
    if len(command.arguments) != len(wanted):
        return f"malformed: {' '.join([command.type, *wanted])} is how it is asked for"
    return ""


class Commands:
    """One device's commands. `offer` may be called from any thread, all else from the agent's main loop.

    `refused` counts refusals in this run of the agent, `why` is the last one's reason. `report()` has a fresh report
    sent soon.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        client: Client,
        *,
        session: str,
        signer: Signer | None,
        about: str,
        report: Callable[[], None],
    ) -> None:
        self._config, self._store, self._client, self._signer = config, store, client, signer
        self._session, self._about, self._report = session, about, report
        self._topics = Topics(config.device.fleet)
        self._inbox: queue.Queue[bytes] = queue.Queue(INBOX_MAX)
        self._waiting: deque[tuple[int, Command]] = deque(maxlen=INBOX_MAX)
        self._overflow = 0
        self.refused, self.why = 0, ""

    @property
    def topic(self) -> str:
        """Where commands for this device come in."""
        return self._topics.command(self._config.device.id)

    def offer(self, payload: bytes) -> None:
        """Take a message in, to be looked at by `tick`; more than `INBOX_MAX` at once are refused unread."""
        try:
            self._inbox.put_nowait(payload)
        except queue.Full:
            self._overflow += 1

    def tick(self, now: float) -> None:
        """Carry out or refuse what has come in, and answer what the updater has done since."""
        if self._overflow:
            lost, self._overflow = self._overflow, 0
            self._refuse("flood: too many at once", count=lost)
        for _ in range(self._inbox.qsize()):
            self._take(self._inbox.get_nowait(), now)
        for _ in range(len(self._waiting)):
            self._finish(*self._waiting.popleft(), now)

    # --- judging -------------------------------------------------------------------------------------------------

    def _take(self, payload: bytes, now: float) -> None:
        try:
            command, sealed = parse(payload, Command)
            listed = self._listed(sealed, now)
        except ValueError as error:
            self._refuse(f"unreadable: {error}")
            return
        except StoreError as error:
            self._refuse(f"failed: {error}")
            return
        if not listed:
            self._refuse("unknown: altered, or not signed by an operator whom a channel of this device lists now")
            return
        try:
            why = self._judge(command, listed, now) or self._carry_out(command, _key(listed), now)
        except StoreError as error:
            why = f"failed: {error}"
        if why:
            self._refuse(why, command)
            self._answer(command, False, f"refused, {why}", now)

    def _listed(self, sealed: Sealed, now: float) -> dict[str, Operator]:
        """Return the operator whose key signed, as each channel lists it; empty if none does.

        A channel whose metadata has expired lists nobody: the revocation of a key may have been held back.
        """
        clock = max(now, self._store.fact("clock"))
        found: dict[str, Operator] = {}
        for channel in self._config.channel:
            trust = self._store.trust(channel)
            for operator in trust.known.operators if trust is not None and clock <= trust.expires else ():
                if any(_signed(sealed, one.sig, operator) for one in sealed.signatures if one.keyid == operator.keyid):
                    found[channel] = operator
        return found

    def _judge(self, command: Command, listed: Mapping[str, Operator], now: float) -> str:
        device = self._config.device
        if not self._ours(command.response_topic):
            return "foreign: its answer would go to a topic that is not this device's"
        # Who may steer a slot is decided by the channel that the slot follows.
        slot = self._config.slot.get(command.arguments[0]) if command.arguments else None
        if command.type in REQUESTS and command.arguments and slot is None:
            return f"malformed: there is no slot {command.arguments[0][:63]!r}; there is {', '.join(self._config.slot)}"
        there = [listed[slot.channel]] if slot is not None and slot.channel in listed else []
        operators = there if slot is not None else list(listed.values())
        return refusal(
            command,
            next((one for one in operators if command.type in one.scope), operators[0] if operators else None),
            fleet=device.fleet,
            device=device.id,
            session=self._session,
            allowed=self._config.commands.allow,
            counter=int(self._store.fact(_key(listed))),
            now=max(now, self._store.fact("clock")),
        )

    def _ours(self, topic: str) -> bool:
        try:
            return topic == self._topics.answer(self._config.device.id, topic.rpartition("/")[2])
        except ValueError:
            return False

    def _refuse(self, why: str, command: Command | None = None, count: int = 1) -> None:
        self.refused += count
        self.why = (f"{command.type[:40]} by {command.issuer[:63]}: {why}" if command is not None else why)[:WHY_MAX]
        log.warning("command refused reason=%r", self.why)
        self._report()

    # --- acting --------------------------------------------------------------------------------------------------

    def _carry_out(self, command: Command, key: str, now: float) -> str:
        """Write down that the command was taken, then act: after a power cut in between, it is not done a second time.

        Returns an empty string: what the updater refuses is an answer, and no refusal of the command.
        """
        with self._store.transaction():
            self._store.raise_fact(key, command.counter)
            if command.type in REQUESTS:
                slot, *rest = command.arguments
                self._waiting.append((self._store.ask(command.type, slot, now, *rest), command))
        log.info("command taken type=%s issuer=%s counter=%d", command.type, command.issuer, command.counter)
        if command.type == "report":
            self._report()
        if command.type not in REQUESTS:
            words = self._about if command.type == "ping" else "a fresh report follows"
            self._answer(command, True, words, now)
        return ""

    def _finish(self, number: int, command: Command, now: float) -> None:
        words = self._store.answer_of(number)
        if words is not None:
            self._answer(command, not words.startswith("refused"), words, now)
        elif now < command.expires + COMMAND_SECONDS_MAX:
            self._waiting.append((number, command))

    def _answer(self, command: Command, done: bool, words: str, now: float) -> None:
        if not self._ours(command.response_topic):
            return
        answer = Answer(
            format=1,
            fleet=self._config.device.fleet,
            device=self._config.device.id,
            session=self._session,
            issuer=command.issuer,
            counter=command.counter,
            time=round(now, 3),
            done=done,
            words=words[:WORDS_MAX],
        )
        correlation = f"{command.issuer}:{command.counter}".encode()
        try:
            data = encode(answer, self._signer)
            self._client.publish(command.response_topic, data, properties={"CorrelationData": correlation})
        except (TransportError, StoreError) as error:
            log.warning("command not answered issuer=%s reason=%s", command.issuer, error)


def _key(listed: Mapping[str, Operator]) -> str:
    """Return the fact that holds the last counter taken from the key."""
    return f"operator {next(iter(listed.values())).public.lower()}"


def _signed(sealed: Sealed, signature: bytes, operator: Operator) -> bool:
    try:
        return ed25519.verified(bytes.fromhex(operator.public), signature, sealed.signed)
    except ValueError:
        return False
