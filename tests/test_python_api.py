"""The Python API as it is documented: the example of docs/python.md is run, word for word, on the toy experiment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import search
from kinemic.errors import KinemicError
from search import study as studies
from search.folder import SearchFolder
from tests.toy import TOY

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "python.md"
SPACE = {"synthesis.guidance": {"type": "float", "low": 1.0, "high": 5.0}}


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def test_the_documented_example_runs_and_its_result_is_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trial = TOY["trial"] | {"adapt": TOY["trial"]["adapt"] | {"rungs": [1]}}
    few = {"seeds": 2, "rows": ["real", "published"]}
    config = TOY | {"name": "mine", "space": SPACE, "trial": trial, "contenders": few, "seeds": {"judge": [0]}}
    Path("mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    seen: dict[str, search.SearchResult] = {}
    exec(example(), seen)

    result = seen["result"]
    folder = SearchFolder(tmp_path / "runs" / "mine")
    trials = studies.open_study(folder.config(), folder.path, folder.state().study).get_trials()
    assert result.folder == folder.path
    assert list(result.trials.number) == [t.number for t in trials] == [0, 1, 2]
    assert list(result.trials.dev_accuracy) == pytest.approx([t.value for t in trials])
    assert list(result.trials["synthesis.guidance"]) == [studies.trial_values(t)["synthesis.guidance"] for t in trials]
    assert result.best.accuracy == max(t.value or 0.0 for t in trials)
    assert list(result.table.key) == ["real", "none", "published", "best"]
    assert f"trial {result.best.number}: dev accuracy" in capsys.readouterr().out
    page = result.report.read_text(encoding="utf-8")
    # The toy's best trial left clips and a confusion matrix, and its contenders their accuracy by class.
    assert "data:image/gif" in page
    assert "data:image/png" in page
    assert "against real clips without synthetic ones" in page

    again = search.run(config | {"budget": {"trials": 3}}, resume=True)  # a cell that is run again repeats nothing
    assert again.trials.equals(result.trials)
    with pytest.raises(KinemicError, match="search 'mine' is there already"):
        search.run("mine.yaml")


def test_the_result_of_an_unknown_search_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KinemicError, match="no search 'mine'"):
        search.result("mine", tmp_path)
