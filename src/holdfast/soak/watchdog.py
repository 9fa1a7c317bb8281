"""The process that watches: it starts a worker for each device, notices death and silence, writes everything down.

It computes nothing itself. A worker that exits without a word, or whose heartbeat stands still for longer than the
patience, is a DUE: it is killed, its log is closed with the line that supervisors write, and a new one starts.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from holdfast import errors
from holdfast.errors import HoldfastError, TrialError
from holdfast.soak.journal import Journal, LogFile
from holdfast.soak.log_lines import iteration_line, sdc_line
from holdfast.soak.worker import BENCH, HOPELESS, ITERATIONS, Orders, work

_START = 120.0  # seconds until a worker must have loaded
_TRIES = 3  # lives in a row without one iteration, after which a device is left alone
_POLL = 0.1  # seconds
_MINUTE = 60.0  # seconds
Progress = Callable[[int, Mapping[str, int]], None]  # iterations so far, events by kind


@dataclass
class Tally:
    """What one device did in this run."""

    iterations: int = 0
    events: Counter[str] = field(default_factory=Counter)
    given_up: bool = False


@dataclass
class _Life:
    """One worker process."""

    orders: Orders
    process: Any
    pipe: Connection
    heart: Any
    heard: float
    logs: dict[str, LogFile] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    beats: int = 0
    longest: float = 0.0  # seconds between two beats that were seen
    ready: bool = False
    hopeless: str = ""
    done: bool = False

    @property
    def bench(self) -> str:
        """What it was computing last."""
        return self.orders.benches[int(self.heart[BENCH])].name

    def silent(self, now: float, patience: float) -> bool:
        """Say whether its heartbeat has stood still for too long: never less than ten of its own longest pauses."""
        beats = int(self.heart[ITERATIONS])
        if beats != self.beats:
            self.longest = max(self.longest, now - self.heard) if self.beats else self.longest
            self.beats, self.heard = beats, now
        return now - self.heard > (max(patience, 10 * self.longest) if self.ready else max(patience, _START))


class Watchdog:
    """Runs ``orders``, one worker each, until all are done, the time is up, or somebody interrupts.

    Args:
        orders: one for each device.
        journal: where everything is written.
        headers: of the log of each bench.
        patience: seconds without a heartbeat that are a hang.
        progress: called about twice a second.
        minutely: called once a minute, for what the machine says about itself.
    """

    def __init__(
        self,
        orders: Sequence[Orders],
        journal: Journal,
        headers: Mapping[str, Mapping[str, object]],
        *,
        patience: float = 30.0,
        progress: Progress = lambda iterations, events: None,
        minutely: Callable[[], None] = lambda: None,
    ) -> None:
        self._orders, self._journal, self._headers = orders, journal, headers
        self._patience, self._progress, self._minutely = patience, progress, minutely
        self._context = get_context("fork")
        self._stop = self._context.Event()
        self._lives: dict[str, _Life] = {}
        self._failures: Counter[str] = Counter()  # lives in a row without an iteration
        self._hopeless: Counter[str] = Counter()  # lives that gave nothing but errors
        self._told, self._minute = 0.0, time.monotonic()
        self.tallies = {order.device.name: Tally() for order in orders}
        self.interrupted = False

    def run(self, seconds: float | None = None) -> None:
        """Watch until it is over; an interrupt ends it like the end of the time.

        Raises:
            HoldfastError: what a worker refused to do, in its own words.
            TrialError: no device was left that a worker lives on.
        """
        until = None if seconds is None else time.monotonic() + seconds
        try:
            for order in self._orders:
                self._start(order)
            while self._lives and (until is None or time.monotonic() < until):
                self._look()
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            self._wind_up()
        if all(self._failures[device] >= _TRIES for device in self.tallies):
            raise TrialError(
                f"every worker died {_TRIES} times before its first iteration",
                hint=f"{self._journal.folder / 'events.jsonl'} says how",
            )

    def _wind_up(self) -> None:
        """Let workers finish their iteration; whoever does not is killed, and nobody is started again."""
        self._stop.set()
        try:
            while self._lives:
                self._look()
        except BaseException:
            for life in self._lives.values():
                life.process.kill()
            raise

    def _start(self, order: Orders) -> None:
        ours, theirs = self._context.Pipe()
        heart = self._context.RawArray("q", 2)
        foreign = [ours, *(life.pipe for life in self._lives.values())]
        process = self._context.Process(
            target=work, args=(theirs, foreign, self._stop, heart, order), name="holdfast-soak", daemon=True
        )
        process.start()
        theirs.close()
        self._lives[order.device.name] = _Life(order, process, ours, heart, time.monotonic())
        self._journal.event("begin", device=order.device.name, pid=process.pid)

    def _look(self) -> None:
        """Take what the workers say, and notice what they do not."""
        for pipe in wait([life.pipe for life in self._lives.values()], timeout=_POLL):
            life = next(item for item in self._lives.values() if item.pipe is pipe)
            try:
                message = json.loads(life.pipe.recv_bytes())
            except (EOFError, OSError):
                self._ended(life)
                continue
            self._take(life, message)
        now = time.monotonic()
        for life in [item for item in self._lives.values() if item.silent(now, self._patience)]:
            self._due(life, "hang", f"no heartbeat for {now - life.heard:.1f} s")
        self._report(now)

    def _report(self, now: float) -> None:
        if now - self._told < 0.5:
            return
        self._told = now
        running = sum(int(life.heart[ITERATIONS]) for life in self._lives.values())
        events: Counter[str] = sum((tally.events for tally in self.tallies.values()), Counter())
        if now - self._minute > _MINUTE:
            self._minute = now
            self._minutely()
        self._progress(running + sum(tally.iterations for tally in self.tallies.values()), events)

    def _take(self, life: _Life, message: dict[str, Any]) -> None:
        kind = message.pop("kind")
        if kind == "ready":
            life.ready, life.heard = True, time.monotonic()
            life.longest = message["audit"]  # which is a pause that comes again
        elif kind == "it":
            log = self._log(life, message["bench"], iterationinterval=message["every"])
            log.line(iteration_line(message["iteration"], message["kernel"], message["total"]))
        elif kind == "sdc":
            self._corrupted(life, message)
        elif kind == "latent":
            self._latent(life, message)
        elif kind == "crash":
            # what is left to do in that process is to print, which a fork can hang in
            self._log(life, life.bench).line(f"#INF SETUP_ERROR:{message['text']}")
            self._due(life, "crash", message["text"])
        elif kind == "hopeless":
            life.hopeless = message["bench"]
        elif kind == "done":
            life.done = True
        else:
            self._close(life, f"#SERVER_UNKNOWN{_now()}")
            self._forget(life)
            raise _rebuilt(message)

    def _corrupted(self, life: _Life, message: dict[str, Any]) -> None:
        """Write the lines of one wrong output, then what the triage found."""
        log, bench = self._log(life, message["bench"]), message["bench"]
        for text in message.pop("lines"):
            log.line(f"#ERR {text}")
        life.errors[bench] += message["errors"]
        log.line(
            sdc_line(message["iteration"], message["kernel"], message["total"], message["errors"], life.errors[bench])
        )
        log.line(f"#INF triage:{message['verdict']}{_tensors(message['incidents'])}")
        tally = self.tallies[life.orders.device.name].events
        tally.update(("sdc", message["verdict"]))
        tally["critical"] += bool(message["difference"]["critical"])
        tally["nonfinite"] += bool(message["difference"]["nonfinite"])
        tally["reloaded"] += sum(item["repaired"] for item in message["incidents"])
        self._journal.event("sdc", device=life.orders.device.name, **message)

    def _latent(self, life: _Life, message: dict[str, Any]) -> None:
        self._log(life, message["bench"]).line(f"#INF latent{_tensors(message['incidents'])}")
        tally = self.tallies[life.orders.device.name].events
        tally["latent"] += len(message["incidents"])
        tally["reloaded"] += sum(item["repaired"] for item in message["incidents"])
        self._journal.event("latent", device=life.orders.device.name, **message)

    def _ended(self, life: _Life) -> None:
        """A pipe that closes is a worker that is done, or dead."""
        life.process.join(self._patience)
        if life.done:
            self._close(life, "#END")
            self._journal.event("end", device=life.orders.device.name, iterations=int(life.heart[ITERATIONS]))
            self._forget(life)
        elif life.hopeless:
            self._aborted(life)
        else:
            self._due(life, "death", f"exit code {life.process.exitcode}")

    def _aborted(self, life: _Life) -> None:
        """Begin anew where nothing but persistent errors came: it is no DUE, and a few such lives are enough."""
        device = life.orders.device.name
        self._log(life, life.hopeless).line(f"#ABORT {HOPELESS} persistent errors in a row")
        self._close(life, "#END")
        self.tallies[device].events.update(("aborted",))
        self._journal.event("aborted", device=device, bench=life.hopeless)
        self._hopeless[device] += 1
        self._again(life, hopeless=self._hopeless[device] >= _TRIES)

    def _due(self, life: _Life, what: str, words: str) -> None:
        """Count it, close the logs as a supervisor does, and start another worker."""
        device, bench = life.orders.device.name, life.bench
        life.process.kill()
        life.process.join(self._patience)  # one that the system itself holds may stay; it has no pipe any more
        self._log(life, bench).line(f"#SERVER_DUE:soft APP reboot{_now()}")
        life.logs.pop(bench).close()
        self._close(life, f"#SERVER_END{_now()}")
        self.tallies[device].events.update(("due", what))
        beats = int(life.heart[ITERATIONS])
        self._journal.event("due", device=device, bench=bench, what=what, words=words, iterations=beats)
        self._failures[device] = 0 if beats else self._failures[device] + 1
        self._again(life, hopeless=self._failures[device] >= _TRIES)

    def _again(self, life: _Life, *, hopeless: bool) -> None:
        device = life.orders.device.name
        self._forget(life)
        if hopeless:
            self.tallies[device].given_up = True
            self._journal.event("given-up", device=device)
        elif not self._stop.is_set():
            self._start(life.orders)

    def _forget(self, life: _Life) -> None:
        device = life.orders.device.name
        self.tallies[device].iterations += int(life.heart[ITERATIONS])
        del self._lives[device]
        life.pipe.close()

    def _log(self, life: _Life, bench: str, **more: object) -> LogFile:
        if bench not in life.logs:
            header = {**self._headers[bench], **more}
            life.logs[bench] = self._journal.log(bench, life.orders.device.name, header)
        return life.logs[bench]

    def _close(self, life: _Life, line: str) -> None:
        for log in life.logs.values():
            log.line(line)
            log.close()
        life.logs.clear()


def _now() -> str:
    return f" TIME:{datetime.now():%Y-%m-%d-%H-%M-%S}"


def _tensors(incidents: Sequence[Mapping[str, Any]]) -> str:
    return "".join(
        f" tensor:{item['tensor']} bits:{item['bits']} repaired:{int(item['repaired'])}" for item in incidents
    )


def _rebuilt(message: Mapping[str, str]) -> HoldfastError:
    kind = getattr(errors, message["error"], HoldfastError)
    error: HoldfastError = kind(message["message"], hint=message["hint"])
    return error
