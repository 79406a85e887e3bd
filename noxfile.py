"""The project's checks. Plain `nox` runs what a contributor needs; CI runs all of them (see .ci/run)."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "integration"]
# pip, not uv: what installed nox here installs the rest, with the same certificates and the same index.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True


PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
"""Those that the package is for, by its classifiers, the oldest first."""

DEV = str(Path(".nox", "dev", "bin", "python").absolute())
WORKERS = ("-n", "2", "--dist", "loadfile")
"""pytest-xdist: tests of one file share servers, so they stay together."""

QUICK = "not browser and not slow"

in_dev = partial(nox.session, venv_backend="none", requires=["dev"])
"""A session in the environment that `dev` makes, once for all of them."""


@nox.session
def dev(session: nox.Session) -> None:
    """What the other sessions need: the locked packages, and this one as it stands."""
    _install(session)


def _install(session: nox.Session) -> None:
    # Compiling all modules of all packages takes longer than the tests need them.
    session.install("-q", "--no-compile", "-r", "requirements-dev.txt")
    session.install("-q", "--no-deps", "-e", ".")


def _pytest_integration(session: nox.Session, marks: str, *arguments: str) -> None:
    session.run(DEV, "-m", "pytest", "tests/integration", "-m", marks, *arguments, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    locked = Path("requirements-dev.txt").read_text().splitlines()
    session.install("-q", *(line.rstrip(" \\") for line in locked if line.startswith("ruff==")))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@in_dev()
def types(session: nox.Session) -> None:
    """mypy, strict."""
    session.run(DEV, "-m", "mypy")


@in_dev()
def tests(session: nox.Session) -> None:
    """Unit tests, with the coverage they must reach by themselves."""
    session.run(
        DEV, "-m", "pytest", "tests", "--ignore=tests/integration", *WORKERS, "--cov", *session.posargs
    )


@in_dev()
def integration(session: nox.Session) -> None:
    """Real server processes on a real Valkey."""
    _pytest_integration(session, QUICK, *WORKERS)


def tests_on(session: nox.Session) -> None:
    """Unit and integration tests, on this Python."""
    _install(session)
    session.run("python", "-m", "pytest", "tests", "-m", QUICK, *WORKERS, *session.posargs)


for version in PYTHONS:
    nox.session(name=f"tests-{version}", python=version)(tests_on)


@in_dev()
def slow(session: nox.Session) -> None:
    """The integration tests that take their time: thousands of hostile requests, a Redis that freezes."""
    _pytest_integration(session, "slow")


@in_dev()
def browser(session: nox.Session) -> None:
    """The test page in a real Chromium. Skipped where there is none, except when CI is set."""
    _pytest_integration(session, "browser")


@in_dev()
def chaos(session: nox.Session) -> None:
    """Every fault, every message counted. `-- --quick`: the short form; `-- --write`: docs/reliability.md."""
    session.run(DEV, "-m", "tests.chaos", *session.posargs)


@in_dev()
def cluster(session: nox.Session) -> None:
    """The same on a cluster of three masters and three replicas, and by key on one Redis."""
    session.run(DEV, "-m", "tests.chaos", "--source", "cluster", "--source", "by key", *session.posargs)


@in_dev()
def endurance(session: nox.Session) -> None:
    """Half an hour of clients that come and go: nothing is left of them. `-- 600`: so many seconds."""
    session.run(DEV, "-m", "tests.support.endurance", *(session.posargs or ["1800"]))


@in_dev()
def fuzz(session: nox.Session) -> None:
    """What Hypothesis thinks of in ten minutes for each test, and 10,000 inputs for each property."""
    longer = {"FUZZ_SECONDS": "600"}
    session.run(DEV, "-m", "pytest", "tests/integration/test_fuzz.py", *session.posargs, env=longer)
    session.run(
        DEV,
        "-m",
        "pytest",
        "-p",
        "tests.fuzz.budget",
        "--hypothesis-profile=fuzz",
        "tests",
        "--ignore=tests/integration",
        *session.posargs,
    )


@in_dev()
def docs(session: nox.Session) -> None:
    """The docs site, in site/. A warning, such as a link that leads nowhere, is an error."""
    session.run(DEV, ".ci/docs_pages.py", ".nox/pages")
    session.run(DEV, "-m", "zensical", "build", "--clean", "--strict", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the service beside its peers. Takes a while; see benchmarks/README.md."""
    _install(session)
    session.install("-q", "-r", "benchmarks/requirements.txt")
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Known weaknesses of the locked packages (pip-audit). Needs the network."""
    session.install("-q", "pip-audit")
    session.run("pip-audit", "--disable-pip", "--requirement", "requirements-dev.txt", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Write requirements-dev.txt anew. `nox -s lock -- --upgrade` takes newer versions."""
    session.install("-q", "uv")
    session.run(
        "uv",
        "pip",
        "compile",
        "pyproject.toml",
        "--group",
        "dev",
        "--extra",
        "otel",
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
        "--no-strip-extras",
        "--no-emit-index-url",
        "--no-emit-find-links",
        "--quiet",
        "--custom-compile-command",
        "nox -s lock",
        "--output-file",
        "requirements-dev.txt",
        *session.posargs,
    )


@nox.session(reuse_venv=False)
def build(session: nox.Session) -> None:
    """Wheel and sdist; the wheel, installed in an empty environment, serves `/`."""
    dist = Path(session.create_tmp()) / "dist"
    session.install("-q", "build")
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    wheel = max(dist.glob("*.whl"), key=os.path.getmtime)
    session.install("-q", str(wheel))
    with tempfile.TemporaryDirectory() as empty:
        session.chdir(empty)
        session.run("python", str(Path(__file__).parent / ".ci" / "serves_page.py"), env={"PYTHONPATH": ""})
