"""Fixtures. Run with: pytest -n 2 Tests/e2e (README.md here)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import apus as harness  # noqa: E402
from server import Server  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "timeout: bounded time (pytest-timeout)")


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("NOT SHOWN: skipped tests")
        for report in skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            terminalreporter.line(f"{report.nodeid}: {reason}")


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A home made by the project's installer, once for each worker."""
    path = tmp_path_factory.mktemp("template") / "home"
    missing = [name for name in harness.PROGRAMS if not (harness.BUILD / f"apus-{name}").exists()]
    assert not missing, f"not built in {harness.BUILD}: {missing}"
    harness.install(path)
    return path


@pytest.fixture
def home(template, tmp_path):
    """A fresh rootless home: host home.test, nothing relayed but by smtproutes, alias/.qmail-default → alias/Maildir/."""
    path = tmp_path / "home"
    path.mkdir()
    home = harness.Home.copy(template, path)
    for file in list((path / "control").iterdir()) + list((path / "alias").glob(".qmail*")):
        if file.is_file():
            file.unlink()
    home.control(me=harness.LOCAL, locals=[harness.LOCAL], rcpthosts=[harness.LOCAL, harness.ELSEWHERE])
    home.alias("default", "./Maildir/")
    yield home
    harness.Apus(home).end()
    for mess in (path / "queue" / "mess", path / "alias"):
        shutil.rmtree(mess, ignore_errors=True)


@pytest.fixture
def apus(home):
    """Apus, not yet started."""
    instance = harness.Apus(home)
    yield instance
    instance.end()


@pytest.fixture
def running(apus):
    return apus.start()


@pytest.fixture
def server():
    """An SMTP server that accepts everything."""
    with Server() as server:
        yield server


@pytest.fixture
def far(home, server):
    """The same, as next hop for all mail that is not local."""
    home.control(smtproutes=f":127.0.0.1:{server.port}")
    return server
