"""Runs the demo's search on another generated corpus, and records what its final table holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.effect_records import WINNER, Place, Recording, Row, settings_of
from benchmarks.effect_runs import Run, inputs_of
from benchmarks.effect_statistics import GENERATED
from kinemic.trial import stored_reports
from search import api
from search import study as studies
from search.baselines import BEST
from search.config import load
from search.contenders import planned_of
from search.folder import SearchFolder, find

DEMO = Path(__file__).parent.parent / "examples" / "demo.yaml"


def record_corpus(seed: int, recording: Recording, runs: Path, settings: Sequence[str] = ()) -> list[str]:
    """Search on the corpus of a seed to the end, or go on with it, and record every row of its table.

    Returns the keys of the rows. Raises KinemicError.
    """
    of = (f"name=effect-corpus-{seed}", f"data.source.seed={seed}", f"data.target.seed={seed}")
    config = load(DEMO, (*settings, *of))
    api.run(config, runs, resume=True)
    folder = find(runs, config.name)
    return record_table(folder, target_of(seed), inputs_of(folder.state().inputs), recording)


def target_of(seed: int) -> str:
    """Return what the corpus of a seed is called in a recording."""
    return f"{GENERATED}{seed}"


def record_table(folder: SearchFolder, target: str, read: Mapping[str, Any], recording: Recording) -> list[str]:
    """Record what is done of the runs of a search's final table, each classifier by itself; returns the rows' keys.

    ``read`` is what ``inputs_of`` returns. Raises ConfigError for a row that is recorded with other settings.
    """
    config, found = folder.config(), list[str]()
    split, study = config.data.split, studies.open_study(config, folder.path, folder.state().study)
    for key, repetitions in planned_of(study, config, folder).items():
        place = Place(target, split.shots or 0, WINNER if key == BEST else key)
        found.append(place.row)
        for planned in repetitions:
            reports = stored_reports(planned.workdir, planned.config, repetitions=1)
            if reports and reports[-1].last:  # else it failed, as the table says
                row = Row.of(place, settings_of(planned.config, read), sum(reports[-1].seconds.values()))
                recording.check(row)
                recording.add(row, Run(place, split.seed, planned.seeds).records(reports[-1].accuracies))
    return found
