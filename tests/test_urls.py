"""Passwords of storage and tracking: references alone, resolved where they are used; SQLite files of any name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import yaml

from kinemic.cli import run as command
from kinemic.errors import ConfigError, KinemicError
from search import config as configs
from search import study as studies
from search.folder import SearchFolder
from search.sitting import artifacts_folder, tracking_uri
from search.tracking import open_tracker
from search.urls import resolve
from tests.bench import Bench, search
from tests.toy import TOY

TAKEN = r"take another name|becomes a folder|line break"
NASTY = 'it\'s "a" $(touch PWNED) #1 50%41 ?x={y}&z;'
LITERALS = [
    "storage=postgresql://me:c4nary@host/db",
    "storage=postgresql://host/db?password=c4nary",
    "storage=mssql+pyodbc:///?odbc_connect=PWD%3Dc4nary",
    "storage=postgresql://me:c4 nary@host/db",
    "tracking.uri=https://c4nary@host",
    "tracking.uri=http://me:c4nary@host:5000",
]


@pytest.mark.parametrize("literal", LITERALS)
def test_a_password_in_settings_is_refused_with_the_way_to_write_it(
    literal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, _, value = literal.partition("=")
    group, _, leaf = key.partition(".")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(TOY | {"name": "mine", group: {leaf: value} if leaf else value}))
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump(TOY | {"name": "mine"}))
    for arguments in ([file], [plain, "--set", literal], [plain, "--set", literal, "--set", f"{key}=null"]):
        assert command(["search", "run", *map(str, arguments), "--runs", str(tmp_path / "runs")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert key in line
        assert "${NAME} in its place, an environment variable, or ${file:PATH}" in line
        assert "c4nary" not in line
    assert not (tmp_path / "runs").exists()


def test_a_search_of_before_says_how_its_file_is_mended(tmp_path: Path) -> None:
    old = search(name="old").model_dump(mode="json") | {"storage": "postgresql://me:c4nary@host/db"}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(old))
    with pytest.raises(ConfigError, match=r"search\.yaml: storage holds a password.*write \$\{NAME\}"):
        SearchFolder(tmp_path).config()


@pytest.mark.parametrize("given", ["plain", "p@ss/wo:rd?#%41 {x}&y=z"])
def test_a_reference_may_stand_for_any_password(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pass word"
    file.write_text(f"{given}\n")
    monkeypatch.setenv("CANARY", given)
    for reference in ("${CANARY}", f"${{file:{file}}}"):
        for template in ("postgresql://me:{}@host:5432/db", "postgresql://me@host:5432/db?password={}"):
            url = sqlalchemy.make_url(resolve(template.format(reference)))
            assert (url.password or url.query["password"]) == given
            assert (url.username, url.host, url.port, url.database) == ("me", "host", 5432, "db")
    monkeypatch.setenv("WHOLE", "postgresql://me:p%40ss@host/db")
    assert resolve("${WHOLE}") == "postgresql://me:p%40ss@host/db"
    monkeypatch.setenv("HOST", "db.lab:5432")
    assert resolve("postgresql://me:${CANARY}@${HOST}/db").endswith("@db.lab:5432/db")


@pytest.mark.parametrize(
    "reference", ["${NO_SUCH_VARIABLE}", "${file:/no/such file}", "${file:~no-such-user/x}", "${file:/dev/zero}"]
)
def test_what_is_missing_is_named_in_one_line(reference: str, tmp_path: Path) -> None:
    config = search(storage=f"postgresql://me:{reference}@host/db")
    with pytest.raises(
        ConfigError, match=r"is not set|file can't be read|user/x can't be read|zero is too long"
    ) as caught:
        Bench(config, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql+psycopg://me:{}@127.0.0.1:1/db", "postgresql+psycopg://h:1/db?port={}"])
def test_what_drivers_say_of_a_url_is_clean(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "c4nary-of-a-driver")
    config = search(storage=url.format("${CANARY}"), patience=0.0)
    with pytest.raises(KinemicError, match="cannot be opened") as caught:
        studies.prove_storage(config)
    assert "c4nary" not in str(caught.value)
    assert "${CANARY}" in str(caught.value)
    with pytest.raises(KinemicError) as later:
        Bench(config, tmp_path)
    assert "c4nary" not in str(later.value)


def test_study_and_tracking_are_kept_in_a_folder_of_any_name(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / NASTY
    (runs / "mine").mkdir(parents=True)
    shutil.copyfile(empty_store, runs / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    config = search(storage=None, name="mine", budget={"trials": 1})
    bench = Bench(config, runs / "mine")
    bench.run_all()
    assert studies.counts(studies.open_study(config, runs / "mine", bench.study.study_name)) == {"complete": 1}
    for _ in range(2):
        tracker = open_tracker(tracking_uri(config, runs), "test", "s", "s", artifacts_folder(config, runs))
        tracker.log_parent({}, {}, {"a.txt": "text"})
        assert tracker.close("FINISHED")
        assert not tracker.refused
    assert list((runs / "mlflow-artifacts").rglob("a.txt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [NASTY]
    assert {path.name for path in runs.iterdir()} == {"mine", "mlflow.db", "mlflow-artifacts"}


@pytest.mark.parametrize(
    "name", ["cache", "Cache", "MLFLOW.db", "mlflow.db-wal", "mlflow-artifacts", ".hidden", "a/b", "a\n"]
)
def test_names_that_are_taken_are_refused_however_they_are_given(name: str, tmp_path: Path) -> None:
    values: dict[str, Any] = TOY | {"name": name}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=TAKEN):
        configs.load(file)
    with pytest.raises(ConfigError, match=TAKEN):
        configs.build(TOY | {"name": "mine"}, "x", [f"name={name!r}" if "\n" not in name else f'name="{name[0]}\\n"'])
    with pytest.raises(ConfigError, match=TAKEN):
        configs.validate(values, "python")
