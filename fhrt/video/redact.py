"""Keeps what opens a camera out of everything that a person or a file gets to see."""

from __future__ import annotations

import json
import logging
import re
import time

_LOGIN = re.compile(r"(://[^\s@:'\"]*):[^\s'\"]*@")  # up to the last @: a password may hold one
_NO_PORT = re.compile(r"^([^/?#:[]*:)(?!\d*(?:[/?#]|$)).*")
_SLIP = re.compile(r":.*@", re.DOTALL)
_PAIR = re.compile(
    r"\b((?:\w*(?:password|passwd|pwd|token|secret|signature)|pass|sig|(?:api|access)?_?key|auth)=)[^\s&'\"]+", re.IGNORECASE
)


def redact(text: object) -> str:
    """The text with the password of every address, and every ``password=``, ``token=`` and the like, replaced by ``***``."""
    return _PAIR.sub(r"\1***", _LOGIN.sub(r"\1:***@", str(text)))


def redact_address(address: str) -> str:
    """One whole address without its password, whatever that holds: all from the first ``:`` behind the scheme to the last ``@`` of all.

    What stands in a port's place and is none may be a password, too, that has lost its end. Without ``://`` it is an address with a slip of
    the pen, or a file's name.
    """
    scheme, found, rest = address.partition("://")
    if not found:
        return redact(_SLIP.sub(":***@", address))
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    place = f"{user + ':' if colon else ''}***@{place}" if at else _NO_PORT.sub(r"\1***", place)
    return redact(f"{scheme}://{place}")


class JsonFormatter(logging.Formatter):
    """One JSON object per log line: time (UTC), level, logger, message, what ``extra=`` added, and a traceback's text; redacted."""

    _STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        line |= {
            key: redact(value) if isinstance(value, str) else value for key, value in vars(record).items() if key not in self._STANDARD
        }
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=redact)
