"""What one run says, read from its files: the report file, its output, and event files of TensorBoard.

Reading is blocking, for a thread; what was read counts only once it is on disk: a tail that was not kept is read again
from where it stood.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from runyard.message.line import MARKS, body_bytes, read_marked, read_report
from runyard.message.rules import Rules
from runyard.model.errors import InvalidInput, TooLarge
from runyard.model.ids import RunKey
from runyard.model.job import JobSpec
from runyard.model.message import ERROR, INFO, LOG, METRICS, NewMessage, Source
from runyard.service.linefile import LineFile, Lines, Place
from runyard.store.output import OutputFiles, Stream

if TYPE_CHECKING:
    from runyard.service.eventfiles import EventFiles

#: Messages, and bytes of output, after which others get their turn.
TURN_MESSAGES, TURN_BYTES = 2000, 8 * 1024 * 1024
#: Bytes of the end of stderr in which a traceback is looked for.
LAST_WORDS = 64 * 1024
#: Bytes of a line up to which its body can't be too large.
SURE = 400_000
#: K12AI's name for what is a `log` here.
_RUNLOG = "runlog"
#: Suffixes of the files.
_REPORT, _OUTPUT = "rep", ("out", "err")


class TailState(msgspec.Struct, array_like=True):
    """How far a run was read: what is stored."""

    places: dict[str, Place] = {}
    """By suffix of the file: `rep`, `out`, `err`."""
    events: dict[str, int] = {}
    """Offsets in event files of TensorBoard, by name."""
    bad: int = 0
    """Lines that looked like reports and were none."""
    failed: bool = False
    """The program has told an error itself."""
    lost: bool = False
    """It was said that output was gone before it was read."""
    over: bool = False
    """All was read and said."""


class Tail:
    """One run. `read` is for one thread at a time."""

    def __init__(
        self, run: RunKey, spec: JobSpec, output: OutputFiles, since: float, state: TailState | None = None
    ) -> None:
        """`since` is when the run was launched (Unix seconds): older event files are another run's."""
        self.run = run
        self.state = state or TailState()
        self.crashed = False
        """It has ended with an exit code other than 0."""
        self._spec, self._since = spec, since
        self._output = output
        self._rules: Rules | None = None
        self._files: dict[str, LineFile] = {}
        self._events: EventFiles | None = None

    def _open_files(self) -> None:
        """With the first look: most runs are over before there is one."""
        spec, run, output, report = self._spec, self.run, self._output, self._spec.report
        trimmed = spec.output.max_size is not None
        self._files = {_REPORT: self._open(output.report(run), _REPORT, whole=True, trimmed=False)}
        if report.lines or report.rules:
            self._files["out"] = self._open(output.path(run, Stream.OUT), "out", whole=False, trimmed=trimmed)
        if report.rules and not spec.output.merge:
            self._files["err"] = self._open(output.path(run, Stream.ERR), "err", whole=False, trimmed=trimmed)
        if report.tensorboard is not None:
            from runyard.service.eventfiles import EventFiles

            folder = Path(spec.cwd or "/") / report.tensorboard
            self._events = EventFiles(folder, self.state.events, self._since, spec.user)

    def _open(self, path: str | Path, suffix: str, *, whole: bool, trimmed: bool) -> LineFile:
        return LineFile(path, self.state.places.setdefault(suffix, Place()), whole=whole, trimmed=trimmed)

    def anew(self, state: TailState) -> Tail:
        """The same tail, standing where it stood then."""
        tail = Tail(self.run, self._spec, self._output, self._since, state)
        tail.crashed = self.crashed
        return tail

    @property
    def reported(self) -> int:
        """Bytes of the report file that were read."""
        place = self.state.places.get(_REPORT)
        return 0 if place is None else place.offset

    @property
    def passed(self) -> int:
        """Bytes of all its files that were read."""
        return sum(place.offset for place in self.state.places.values()) + sum(self.state.events.values())

    def read(self, now: float, ended: bool) -> tuple[list[NewMessage], bool]:
        """The next messages, oldest first in each file, and whether there are more already. `now` is Unix seconds.

        When the run has `ended`, what is there is all that will be. Raises OSError.
        """
        found: list[NewMessage] = []
        if self.state.over:
            return found, False
        if not self._files:
            self._open_files()
        more = False
        # How it ended is in the report file: at the end, that comes after what was printed.
        for suffix in (*_OUTPUT, _REPORT) if ended else (_REPORT, *_OUTPUT):
            file = self._files.get(suffix)
            if suffix == _REPORT and ended:
                more = more or self._read_events(found, now)
                if more:
                    break
            if file is not None and (ended or file.grew()):
                more |= self._read_file(suffix, file, found, now, ended)
        if not ended:
            more |= self._read_events(found, now)
        elif not more:
            self.state.over = True
            self._last_words(found, now)
        return found, more

    def remember(self) -> bytes:
        """The state for the store."""
        return msgspec.json.encode(self.state)

    def give_back(self) -> None:
        """The file system gets back what of the report file is safe in the store. Raises OSError."""
        self._output.free(self._output.report(self.run), self.reported)

    def _read_events(self, found: list[NewMessage], now: float) -> bool:
        return self._events is not None and self._events.read(self.run.job, found, TURN_MESSAGES, now)

    def _read_file(self, suffix: str, file: LineFile, found: list[NewMessage], now: float, ended: bool) -> bool:
        begin, limit = file.place.offset, len(found) + TURN_MESSAGES
        while True:
            lines = file.read(ended)
            self._take(suffix, lines, found, now)
            if not lines.more or len(found) >= limit or file.place.offset - begin >= TURN_BYTES:
                return lines.more

    def _take(self, suffix: str, lines: Lines, found: list[NewMessage], now: float) -> None:
        if lines.lost and not self.state.lost:
            self.state.lost = True
            text = f"{lines.lost} bytes of output were given up (output.max_size) before they were read for messages"
            found.append(NewMessage(self.run.job, INFO, {"code": "lost", "text": text}, now))
        if suffix == _REPORT:
            for line in lines.lines:
                if line:
                    self._report(line, found, now, "report")
        else:
            self._output_lines(suffix, lines.lines, found, now)
        if lines.too_long:
            self._bad(found, now, "a line is longer than a message may be")

    def _output_lines(self, suffix: str, lines: Sequence[bytes], found: list[NewMessage], now: float) -> None:
        rules = self._rules
        if self._spec.report.rules and rules is None:
            rules = self._rules = Rules(self._spec.report.rules)
        marked = self._spec.report.lines and suffix == "out"
        for line in lines:
            if marked and line.startswith(MARKS):
                self._report(line, found, now, "stdout")
            elif rules is not None and line:
                for body in rules.read(line.decode("utf-8", "replace")):
                    found.append(NewMessage(self.run.job, METRICS, body, now, "rule"))

    def _report(self, line: bytes, found: list[NewMessage], now: float, source: Source) -> None:
        job = self.run.job
        try:
            message = read_marked(line, job, now) if source == "stdout" else read_report(line, job, now, source)
            if len(line) > SURE or b"\\u" in line:
                body_bytes(message.body)
        except TooLarge as error:
            # In the words of K12AI (spec 1.6).
            body = {"code": 100011, "size": len(line), "text": error.detail}
            found.append(NewMessage(job, INFO, body, now))
            return
        except InvalidInput as error:
            self._bad(found, now, error.detail)
            return
        if message.kind == ERROR:
            self.state.failed |= message.body.get("status") != "warning"
        elif message.kind == _RUNLOG:
            message = msgspec.structs.replace(message, kind=LOG)
        found.append(message)

    def _bad(self, found: list[NewMessage], now: float, why: str) -> None:
        """The first one is told at once, how many there were at the end."""
        self.state.bad += 1
        if self.state.bad == 1:
            text = f"a report can't be used: {why[:500]}. More like this one are counted, and told at the end"
            found.append(NewMessage(self.run.job, INFO, {"code": "bad_report", "text": text}, now))

    def _last_words(self, found: list[NewMessage], now: float) -> None:
        """What can be said once all has been read."""
        job = self.run.job
        if self.state.bad > 1:
            text = f"{self.state.bad} reports could not be used"
            found.append(NewMessage(job, INFO, {"code": "bad_reports", "count": self.state.bad, "text": text}, now))
        if self.crashed and not self.state.failed:
            from runyard.report import failure

            detail = failure.of_text(self._end_of_stderr())
            if detail is not None:
                body = {"status": "crash", "message": detail["exc_text"] or detail["exc_type"], "detail": detail}
                found.append(NewMessage(job, ERROR, body, now))

    def _end_of_stderr(self) -> str:
        stream = Stream.OUT if self._spec.output.merge else Stream.ERR
        start = max(0, self._output.size(self.run, stream) - LAST_WORDS)
        return self._output.read(self.run, stream, start, LAST_WORDS).decode("utf-8", "replace")
