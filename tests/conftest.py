# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test run keeps to: end when told to, leave no process, skip nothing in silence."""

from __future__ import annotations

import faulthandler
import os
import signal
from pathlib import Path
from types import FrameType

import hypothesis
import pytest

from tests import leftovers

# For fixtures to take a lab down after a signal; whoever started us waits for that.
CLEANUP_LIMIT_S = 90
# Children that were told to end may take a moment.
GRACE_S = 5.0

_PRIVILEGED = {"cluster", "interop"}

hypothesis.settings.register_profile("ctdbpy", deadline=None, print_blob=True)
if not os.environ.get("CI"):
    hypothesis.settings.load_profile("ctdbpy")


def pytest_configure(config: pytest.Config) -> None:
    """Mark the run, and turn the first signal into an orderly end of the session."""
    os.environ.setdefault(leftovers.MARK_VARIABLE, f"{os.getpid()}")
    # ./dev runs us in the background of a shell, where SIGINT comes ignored.
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)


def _stop(_signum: int, _frame: FrameType | None) -> None:
    # Handlers, not SIG_IGN: what teardown starts must not inherit deafness.
    signal.signal(signal.SIGINT, _still_stopping)
    signal.signal(signal.SIGTERM, _still_stopping)
    faulthandler.dump_traceback_later(CLEANUP_LIMIT_S, exit=True)
    raise KeyboardInterrupt


def _still_stopping(_signum: int, _frame: FrameType | None) -> None:
    pass


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also tests that take ten minutes and more")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need root are skipped without it, and an error on a build server."""
    here = Path(__file__).parent
    for item in items:
        section = item.path.relative_to(here).parts[0] if item.path.is_relative_to(here) else ""
        if section in _PRIVILEGED:
            item.add_marker(pytest.mark.root)
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes long; give --long"))
    needing_root = [item for item in items if item.get_closest_marker("root")]
    if os.geteuid() == 0 or not needing_root:
        return
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(f"cannot run {len(needing_root)} tests with CI=true: they need root")
    for item in needing_root:
        item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """After the last fixture is gone: a process that is still there is an error, and is ended."""
    mark = os.environ[leftovers.MARK_VARIABLE]
    for stubborn in leftovers.wait_gone(leftovers.find(mark), GRACE_S):
        os.close(stubborn.pidfd)
    left = leftovers.end(mark)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not left or reporter is None:
        return
    reporter.stats.setdefault("error", []).append(
        pytest.TestReport(
            nodeid="the whole run",
            location=("tests/conftest.py", None, "the whole run"),
            keywords={},
            outcome="failed",
            longrepr="this run left processes behind (now ended):\n" + "\n".join(left),
            when="teardown",
        )
    )
    if session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
