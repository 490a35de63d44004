"""scripts/test.py counts what failed, whatever way it failed in."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT


@pytest.fixture(scope="module")
def runner() -> Any:
    spec = importlib.util.spec_from_file_location("test_runner", ROOT / "scripts" / "test.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["test_runner"] = module
    spec.loader.exec_module(module)
    return module


def test_a_go_package_that_does_not_build_is_a_failure_with_its_words(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module example.test/m\n\ngo 1.26\n")
    for name, body in {
        "good": 'func TestA(t *testing.T) { t.Run("sub", func(t *testing.T) {}) }',
        "bad": 'func TestB(t *testing.T) { t.Error("told so") }',
        "broken": "func TestC(t *testing.T) { nonsense }",
        "dead": 'func TestD(t *testing.T) { go func() { panic("dead") }(); select {} }',
        "skipped": 'func TestE(t *testing.T) { t.Skip("not here") }',
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "x_test.go").write_text(f'package {name}\n\nimport "testing"\n\n{body}\n')
    done = runner.execute(["go", "test", "-json", "./..."], cwd=tmp_path)
    outcome = runner.read_go(done)
    assert not outcome.ok
    assert (outcome.passed, outcome.failed) == (2, 3)
    for words in ("told so", "nonsense", "panic: dead"):
        assert words in outcome.output
    assert "TestA" not in outcome.output


def test_a_run_of_pytest_that_cannot_start_is_a_failure(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("import there_is_no_such_module\n")
    outcome = runner.pytest(str(tmp_path), "-p", "no:cacheprovider")()
    assert not outcome.ok
    assert outcome.failed == 1
    assert "there_is_no_such_module" in outcome.output


def test_pytest_cases_are_counted_and_skipped_ones_are_not(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('n', [1, 2, 3])\n"
        "def test_n(n): assert n != 2\n"
        "@pytest.mark.skip\n"
        "def test_skipped(): pass\n"
    )
    outcome = runner.pytest(str(tmp_path), "-p", "no:cacheprovider")()
    assert (outcome.ok, outcome.passed, outcome.failed) == (False, 2, 1)


def test_the_last_line_is_the_count_and_a_failed_check_is_in_it() -> None:
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import test as t; "
        "t.STEPS[:] = [t.Step('good', lambda: t.Outcome(True, 3, 0)), "
        "t.Step('bad', t.check('false')), t.Step('absent', t.check('/there/is/no/such/program'))]; "
        "sys.exit(t.main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "3 passed, 2 failed"
