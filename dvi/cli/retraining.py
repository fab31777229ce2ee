"""``dvi retrain``."""

from __future__ import annotations

import datetime as dt
import json
import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from dvi.cli.application import FAILED, INTERRUPTED, app, complain
from dvi.errors import ArgumentError, DviError, StoreDamagedError, StoreNotFoundError

REJECTED, DO_NOT_RETRY = 3, 78  # 78 is EX_CONFIG of sysexits.h

logger = logging.getLogger(__name__)


@app.command()
def retrain(
    config: Annotated[Path, typer.Argument(help="TOML file that says where data, model and runs are.")],
    log_format: Annotated[Literal["text", "json"], typer.Option(help="Of the log, on standard error.")] = "text",
) -> None:
    """Do one scheduled run: fit what is new, judge it, promote it if it is no worse.

    Exit codes: 0 promoted, or nothing to do; 1 try again; 3 fitted, but not promoted; 78 the configuration, the model
    or the data are at fault; 143 ended by SIGTERM, and to be gone on with.
    """
    log_to_stderr(log_format)

    import dvi

    try:
        outcome = dvi.retrain(config)
    except DviError as error:
        logger.error("%s", error) if log_format == "json" else complain(str(error))
        raise typer.Exit(retrain_exit_code(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    logger.info("%s", outcome.kind, extra={"outcome": outcome.kind, "run": outcome.run, "reason": outcome.reason})
    if log_format == "text":
        typer.echo(f"{outcome.kind}: {outcome.reason}")
    if outcome.kind == "rejected":
        raise typer.Exit(REJECTED)


def retrain_exit_code(error: DviError) -> int:
    """The rule for errors of ``dvi retrain``: 78 where the next try would fail in the same way, 1 for all else."""
    hopeless = isinstance(error, ArgumentError | StoreDamagedError | StoreNotFoundError)
    return DO_NOT_RETRY if hopeless else FAILED


def log_to_stderr(log_format: str) -> None:
    """Show the log of dvi from INFO on, and of others from WARNING on."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if log_format == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("dvi").setLevel(logging.INFO)
    logging.captureWarnings(True)


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, what ``extra`` added, and the traceback."""

    _own = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        """See :class:`logging.Formatter`."""
        told = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in self._own},
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str)
