"""Where the server's log goes (`[log]` in the configuration)."""

from __future__ import annotations

import logging
import sys

from runyard.model.errors import ConfigError
from runyard.settings import Log

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_OFF = logging.CRITICAL + 10


def set_up_log(settings: Log) -> None:
    """Raises ConfigError if the file can't be written."""
    handlers: list[logging.Handler] = []
    if settings.path:
        from logging.handlers import RotatingFileHandler

        try:
            handlers.append(
                RotatingFileHandler(
                    settings.path, maxBytes=settings.max_size, backupCount=settings.keep, encoding="utf-8"
                )
            )
        except OSError as error:
            raise ConfigError(f"[log] path: {settings.path} can't be written: {error.strerror}") from None
    if not settings.path or settings.screen:
        handlers.append(logging.StreamHandler(sys.stderr))
    level = _OFF if settings.level == "off" else settings.level.upper()
    logging.basicConfig(level=level, format=FORMAT, handlers=handlers)
    # What is no HTTP is answered with 400. A line for each would let anybody fill the log.
    logging.getLogger("uvicorn.error").setLevel(max(logging.ERROR, logging.getLogger().level))
