"""
make mutants: break the engine in one place at a time, and demand that a test notices.

    python -m tests.mutants [PREFIX …] [--sample N] [--processes N] [--tests PATH …] [--list]

A PREFIX is a file, file:function, or one id.  Exit 1 when a mutant survives that survivors.toml
does not argue, when an argued one is killed, or when an argument names no mutant.

One private server for the whole run, in memory where there is room; per mutant a pytest of its
own with ORDINAUT_TEST_MUTANT, which makes its databases from a template with the mutant in it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg

from ordinaut.binaries import find_bindir
from tests import postgres
from tests.mutants import plugin
from tests.mutants.generate import FILES, Mutant, generate

ROOT = Path(__file__).parents[2]
SURVIVORS = Path(__file__).with_name("survivors.toml")
MEMORY = ROOT / ".mutants_cache" / "killers.json"  # what killed what: an order, never a result
TESTS = ("tests/test_stories.py", "tests/races", "tests/stress")
PYTEST = (
    "-m",
    "pytest",
    "-x",
    "-q",
    "--no-header",
    "--tb=line",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:hypothesispytest",
)
AT_ONCE = 2
_CALL = re.compile(r"\bordinaut\.(\w+)\(")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/\S+?\.py(?:::.+?)?)(?: - .*)?$", re.M)


@dataclass(frozen=True, slots=True)
class Result:
    mutant: Mutant
    verdict: str  # killed, survived, hung, unloadable
    by: str = ""
    seconds: float = 0.0

    @property
    def caught(self) -> bool:
        return self.verdict in ("killed", "hung")


class Runner:
    """Runs the tests on mutants, one pytest each."""

    def __init__(self, dsn: str, bindir: Path, folder: Path, tests: Sequence[str]) -> None:
        self._folder = folder
        self._bindir = bindir
        self._databases = postgres.Databases(dsn, "mutants")
        self._dsn = self._databases.dsn_of(self._databases.named("loads"))
        postgres.install(self._dsn)
        self._server = dsn
        self._tests = [
            t for t in tests if any((ROOT / t).glob("**/test_*.py")) or (ROOT / t).is_file()
        ]
        self._memory: dict[str, Counter[str]] = defaultdict(Counter)
        with contextlib.suppress(OSError, ValueError):
            for function, killers in json.loads(MEMORY.read_text()).items():
                self._memory[function].update(killers)
        self._lock = threading.Lock()
        self._callers: dict[str, list[str]] = {}
        self._running: set[subprocess.Popen[str]] = set()
        self.limit = 600.0

    def baseline(self) -> float:
        """Run the tests on the engine as it is; return how long they take."""
        began = time.monotonic()
        calls = self._folder / "calls.json"
        code, output = self._pytest({plugin.CALLS: str(calls)})
        if code != 0:
            sys.exit(f"the tests fail without any mutant:\n{output}")
        self._callers = json.loads(calls.read_text())
        # The server does not count a call that raises; what a test's file names may be called.
        for test in dict.fromkeys(t for tests in list(self._callers.values()) for t in tests):
            for name in set(_CALL.findall((ROOT / test.partition("::")[0]).read_text())):
                if test not in self._callers.setdefault(name, []):
                    self._callers[name].append(test)
        took = time.monotonic() - began
        self.limit = 30 + 3 * took
        return took

    def run(self, mutant: Mutant) -> Result:
        began = time.monotonic()
        if not self._loads(mutant):
            return Result(mutant, "unloadable")
        file = self._folder / f"{mutant.id}.sql"
        file.write_text(mutant.sql)
        function = mutant.id.rpartition(":")[0]
        chosen = self._chosen(mutant)
        if not chosen:
            return Result(mutant, "survived", "no test calls it")
        file.with_suffix(".tests").write_text("\n".join(chosen))
        code, output = self._pytest(
            {
                "ORDINAUT_TEST_MUTANT": str(file),
                plugin.CHOSEN: str(file.with_suffix(".tests")),
            }
        )
        seconds = time.monotonic() - began
        if code is None:
            return Result(mutant, "hung", f"nothing for {self.limit:.0f} s", seconds)
        if code == 0:
            return Result(mutant, "survived", "", seconds)
        found = _FAILED.search(output)
        if code != 1 or found is None:
            raise RuntimeError(f"pytest itself failed on {mutant.id} ({code}):\n{output}")
        with self._lock:
            self._memory[function][found[1]] += 1
            self._memory[mutant.id] = Counter({found[1]: 1})
        return Result(mutant, "killed", found[1], seconds)

    def stop(self) -> None:
        """End what runs, and remember what was learned."""
        for process in list(self._running):
            _kill(process)
        MEMORY.parent.mkdir(exist_ok=True)
        MEMORY.write_text(json.dumps(self._memory, indent=0))

    def _chosen(self, mutant: Mutant) -> list[str]:
        """Return the tests that call its function; first what killed it or its like before."""
        function = mutant.id.rpartition(":")[0]
        if "\nlanguage sql\n" in mutant.sql:  # may be inlined, and is not counted then
            callers = list(dict.fromkeys(t for tests in self._callers.values() for t in tests))
        else:
            callers = [
                t for f in (function.partition(":")[2], "*") for t in self._callers.get(f, ())
            ]
        with self._lock:
            likely = [*self._memory.get(mutant.id, ())]
            likely += [t for t, _ in self._memory.get(function, Counter[str]()).most_common()]
        return list(dict.fromkeys([t for t in likely if t in callers] + callers))

    def _loads(self, mutant: Mutant) -> bool:
        with psycopg.connect(self._dsn) as conn:
            try:
                conn.execute(mutant.sql.encode())
            except psycopg.Error:
                return False
            finally:
                conn.rollback()
        return True

    def _pytest(self, environment: dict[str, str]) -> tuple[int | None, str]:
        process = subprocess.Popen(
            [sys.executable, *PYTEST, "-p", "tests.mutants.plugin", *self._tests],
            cwd=ROOT,
            env={
                **os.environ,
                "ORDINAUT_TEST_DSN": self._server,
                "ORDINAUT_PG_BINDIR": str(self._bindir),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._running.add(process)
        try:
            output, _ = process.communicate(timeout=self.limit)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest drops its databases
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)
            return None, ""
        finally:
            _kill(process)
            self._running.discard(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def argued() -> dict[str, str]:
    """Return the survivors that are argued: id to reason."""
    entries = tomllib.loads(SURVIVORS.read_text()).get("survivor", [])
    return {mutant_id: entry["why"] for entry in entries for mutant_id in entry["ids"]}


def sample(mutants: list[Mutant], n: int) -> list[Mutant]:
    """Return n of them, the same each time, from everywhere."""
    return sorted(mutants, key=lambda m: hashlib.sha256(m.id.encode()).digest())[:n]


@contextlib.contextmanager
def runner(tests: Sequence[str]) -> Iterator[Runner]:
    bindir = find_bindir()
    with postgres.private(bindir) as pg, tempfile.TemporaryDirectory() as folder:
        with psycopg.connect(pg.dsn, autocommit=True) as conn:
            conn.execute("alter role current_user set statement_timeout = '20s'")  # endless loops
            conn.execute("alter role current_user set track_functions = 'all'")
        yield Runner(pg.dsn, bindir, Path(folder), tests)


def judge(results: Iterable[Result], reasons: dict[str, str]) -> list[str]:
    """Return what is wrong, in sentences."""
    wrong = []
    for r in results:
        where = f"{r.mutant.id} ({r.mutant.id.partition(':')[0]}.sql:{r.mutant.line})"
        if r.verdict == "survived" and r.mutant.id not in reasons:
            wrong.append(f"survives: {where} {r.mutant.edit}")
        elif r.caught and r.mutant.id in reasons:
            wrong.append(f"argued, and killed by {r.by}: {where}")
    return wrong


def table(results: list[Result], reasons: dict[str, str]) -> str:
    lines = [f"{'':14}generated  killed  argued  surviving  not loading"]
    for file in (*FILES, "all"):
        mine = [r for r in results if file in ("all", r.mutant.id.partition(":")[0])]
        lived = [r for r in mine if r.verdict == "survived"]
        known = sum(r.mutant.id in reasons for r in lived)
        dead = sum(r.caught for r in mine)
        unloadable = sum(r.verdict == "unloadable" for r in mine)
        if mine:
            lines.append(
                f"{file:14}{len(mine):9}{dead:8}{known:8}{len(lived) - known:11}{unloadable:13}"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("only", nargs="*", default=[""], help="files, file:functions, or ids")
    parser.add_argument("--sample", type=int, help="this many of them, the same each time")
    parser.add_argument("--processes", type=int, default=AT_ONCE)
    parser.add_argument("--tests", nargs="+", default=TESTS, help="while writing one: only these")
    parser.add_argument("--list", action="store_true", help="show them, run nothing")
    options = parser.parse_args()

    mutants = generate(*options.only)
    if options.sample is not None:
        mutants = sample(mutants, options.sample)
    if not mutants:
        sys.exit(f"no mutant begins with {' or '.join(options.only)}")
    if options.list:
        for m in mutants:
            print(f"{m.id:48} {m.line:4}  {m.edit}")
        return 0

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    reasons = argued()
    known = {m.id for m in generate()}
    wrong = [f"argued, and no such mutant: {i}" for i in reasons if i not in known]
    results = []
    with runner(options.tests) as run, ThreadPoolExecutor(options.processes) as pool:
        print(f"{len(mutants)} mutants; the tests alone took {run.baseline():.0f} s", flush=True)
        try:
            for r in pool.map(run.run, mutants):
                if r.caught and r.mutant.id in reasons:
                    r = run.run(r.mutant)  # a shaky test must not call an argument stale
                results.append(r)
                print(
                    f"{r.verdict:10} {r.seconds:5.1f} s  {r.mutant.id:44} {r.mutant.edit[:90]}"
                    + (f"  [{r.by}]" if r.by else ""),
                    flush=True,
                )
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            run.stop()
    wrong += judge(results, reasons)
    print(f"\n{table(results, reasons)}")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
