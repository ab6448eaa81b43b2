"""ModelBox's logging, on Python's: module functions, a callback, levels (spec 5.11)."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any

_log = logging.getLogger("runyard.flow.unit")


class LogLevel(IntEnum):
    """ModelBox's levels, by its numbers."""

    LOG_DEBUG = 0
    LOG_INFO = 1
    LOG_NOTICE = 2
    LOG_WARN = 3
    LOG_ERROR = 4
    LOG_FATAL = 5
    LOG_OFF = 6


_PYTHON = (logging.DEBUG, logging.INFO, logging.INFO + 5, logging.WARNING, logging.ERROR, logging.CRITICAL, 100)
LogCallback = Callable[[LogLevel, str, int, str, str], Any]


class Log:
    """A place for log lines. `reg` sends them to a function instead: (level, file, line, function, message)."""

    Level = LogLevel

    def __init__(self) -> None:
        self._callback: LogCallback | None = None
        self._level: LogLevel | None = None

    def reg(self, callback: LogCallback | None) -> None:
        self._callback = callback

    def set_log_level(self, level: LogLevel | int) -> None:
        self._level = LogLevel(level)

    def get_log_level(self) -> LogLevel:
        return self._level if self._level is not None else LogLevel.LOG_INFO

    def print(self, level: LogLevel | int, message: str) -> None:
        self._write(LogLevel(level), str(message), 2)

    def print_ext(self, level: LogLevel | int, file: str, line: int, func: str, message: str) -> None:
        """As `print`, for a place in the code that the caller names."""
        self._send(LogLevel(level), os.path.basename(file), line, func, message)

    def _write(self, level: LogLevel, message: str, depth: int) -> None:
        frame = sys._getframe(depth)
        self._send(level, os.path.basename(frame.f_code.co_filename), frame.f_lineno, frame.f_code.co_name, message)

    def _send(self, level: LogLevel, file: str, line: int, func: str, message: str) -> None:
        if self._level is not None and level < self._level:
            return
        if self._callback is not None:
            self._callback(level, file, line, func, message)
        else:
            _log.log(_PYTHON[level], "[%s:%d %s] %s", file, line, func, message)


_logger = Log()


def get_logger() -> Log:
    return _logger


def set_logger(logger: Log) -> None:
    global _logger
    _logger = logger


def _line(level: LogLevel) -> Callable[..., None]:
    def write(*parts: Any) -> None:
        _logger._write(level, " ".join(map(str, parts)), 2)

    write.__name__ = level.name.removeprefix("LOG_").lower()
    write.__doc__ = f"Writes a log line of the level {level.name}; several arguments are joined as by print."
    return write


debug = _line(LogLevel.LOG_DEBUG)
info = _line(LogLevel.LOG_INFO)
notice = _line(LogLevel.LOG_NOTICE)
warn = _line(LogLevel.LOG_WARN)
error = _line(LogLevel.LOG_ERROR)
fatal = _line(LogLevel.LOG_FATAL)
