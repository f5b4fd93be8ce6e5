"""Records what synthetic clips are worth, and draws the tables of docs/results.md from it.

On people: draws of the few shots x adaptation seeds x classifier seeds, every row under the same ones, on dev clips;
test clips are not touched. On generated corpora: the demo's search, to its end. What is recorded is not run again, so a
recording that was stopped anywhere goes on.

OMP_NUM_THREADS=1 python -m benchmarks.effect --target utd10 --shots 1 --data DIR --prior FILE --choose
python -m benchmarks.effect --target utd10 --shots 1,2,3,5,8 --rows none --list    # what is there, what is missing
python -m benchmarks.effect --corpus 0..4
python -m benchmarks.effect --docs
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import effect_docs
from benchmarks.effect_corpora import record_corpus, target_of
from benchmarks.effect_records import FILE, WINNER, Place, Recording
from benchmarks.effect_runs import ConfigOf, Plan, record, recorded, winner_of
from benchmarks.effect_statistics import CHOSEN_ON, Results
from kinemic.config import TrialConfig
from kinemic.errors import ConfigError, DataError, KinemicError, one_line
from kinemic.reading import load_yaml, with_values
from search import api
from search.config import SearchConfig, load
from search.lock import sole

EXAMPLES = Path(__file__).parent.parent / "examples"
TARGETS = {"utd10": "utd.yaml", "utd27": "utd.yaml", "msr10": "msr.yaml", "msr20": "msr.yaml"}
SIDES = {"train": "train_pool", "dev": "dev"}
BASELINES = ("none", "mined_clips", "prior", "generated", "edited", "mixed", "published")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit code: 1 where runs failed, 2 for what a user can mend."""
    options = _parser().parse_args(arguments)
    try:
        recording = Recording(options.file)
        if options.docs:
            effect_docs.write(Results(recording.records))
            return 0
        if options.list:
            _list(options, recording)
            return 0
        with sole(options.runs / "effect"):
            return _record_corpora(options, recording) if options.corpus else _record(options, recording)
    except KinemicError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _record(options: argparse.Namespace, recording: Recording) -> int:
    plan, config_of, failed = _plan(options), _config_of(options), 0
    for shots in options.shots:
        if options.again:
            for row in plan.rows:
                recording.forget(Place(plan.target, shots, row))
        if not plan.missing(shots, recording):
            continue
        try:
            given = _given(options, config_of(shots, options.draws[0]).trial, shots, recording)
            for done in record(plan, shots, config_of, given, recording, options.runs, options.workers):
                print(f"{len(plan.missing(shots, recording))} left, {done.line}", flush=True)
                failed += bool(done.failure)
        except DataError as error:  # a class with fewer clips than shots, say: other numbers of shots may do
            print(error, file=sys.stderr)
            failed += 1
    return min(failed, 1)


def _record_corpora(options: argparse.Namespace, recording: Recording) -> int:
    for seed in options.corpus:
        if options.again:
            recording.forget_target(target_of(seed))
        rows = record_corpus(seed, recording, options.runs, options.set)
        print(f"corpus {seed}: recorded {', '.join(rows)}", flush=True)
    return 0


def _list(options: argparse.Namespace, recording: Recording) -> None:
    plan, seconds = _plan(options), {(row.target, row.row): row.seconds for row in recording.rows.values()}
    total, unknown = 0.0, False
    for shots in options.shots:
        left = [run.place.row for run in plan.missing(shots, recording)]
        for row in plan.rows:
            each, count = seconds.get((plan.target, row)), left.count(row)
            wanted = len(plan.draws) * plan.adaptations
            took = "unknown until one was run" if each is None else f"{count * each:.0f} s of a core"
            print(f"{plan.target}, shots {shots}, {row}: {wanted - count} of {wanted} runs recorded; the rest: {took}")
            total, unknown = total + count * (each or 0.0), unknown or (each is None and count > 0)
    print(f"in all {'more than ' * unknown}{total / 60:.0f} core-minutes")


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(options.target, options.draws, options.rows, options.adaptations, options.classifiers)


def _config_of(options: argparse.Namespace) -> ConfigOf:
    """Return how the file of a search is read for some shots and a draw of them, whatever split it has itself."""
    folder, target = options.data, options.target
    lists = folder / "splits.json"
    try:
        classes = json.loads(lists.read_text(encoding="utf-8"))[target]["classes"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{lists}: no classes of {target} ({one_line(error)}); give --data or KINEMIC_DATA"
        ) from error

    def config_of(shots: int, draw: int) -> SearchConfig:
        named = {side: {"file": str(lists), "key": f"{target}.{key}"} for side, key in SIDES.items()}
        values = {
            "name": "effect",
            "data.source.path": str(folder),
            "data.source.ids.file": str(lists),
            "data.target.path": str(folder),
            "data.split": {"classes": classes, **named, "shots": shots, "seed": draw},
            "confirm.test": {"file": str(lists), "key": f"{target}.test"},  # the search's; no recording gets it
            **({"prior": {"path": str(options.prior)}} if options.prior else {}),
        }
        settings = [f"{path}={json.dumps(value)}" for path, value in values.items()]
        return load(EXAMPLES / TARGETS[target], [*settings, *options.set])

    return config_of


def _given(options: argparse.Namespace, trial: TrialConfig, shots: int, recording: Recording) -> dict[str, TrialConfig]:
    """Return the rows that are no baselines: of a search, of a file, or as they were recorded before."""
    if options.choose:
        return {WINNER: winner_of(_choose(options, shots))}
    if options.search:
        return {WINNER: winner_of(options.search)}
    if options.settings:
        rows = load_yaml(options.settings)
        return {row: with_values(trial, values, f"{options.settings}: {row}") for row, values in rows.items()}
    return recorded(recording, Place(options.target, shots, WINNER), trial)


def _choose(options: argparse.Namespace, shots: int) -> Path:
    """Search on the draw that settings are chosen on to the end, or go on with that; returns the search's folder."""
    config = _config_of(options)(shots, CHOSEN_ON)
    named = config.model_copy(update={"name": f"effect-{options.target}-{shots}"})
    return api.run(named, options.runs, resume=True).folder


def _numbers(text: str) -> tuple[int, ...]:
    """Read ``1..5`` or ``1,2,8``."""
    first, dots, last = text.partition("..")
    return tuple(range(int(first), int(last) + 1)) if dots else tuple(int(number) for number in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--target", choices=TARGETS, default="utd10")
    add("--shots", type=_numbers, default=(1,), help="real clips a class: 1, or 1,2,3")
    add("--draws", type=_numbers, default=tuple(range(1, 6)), help="of the shots: 1..5; 0 is for choosing settings")
    add("--rows", type=lambda text: tuple(text.split(",")), default=BASELINES, help=f"also {WINNER}")
    add("--adaptations", type=int, default=2, help="adaptation seeds a draw")
    add("--classifiers", type=int, default=3, help="classifier seeds an adaptation seed")
    add("--choose", action="store_true", help=f"search on draw {CHOSEN_ON} first, to its end, for the {WINNER}")
    add("--search", type=Path, help=f"folder of a finished search, whose best trial is the {WINNER}")
    add("--settings", type=Path, help="YAML file of further rows: their settings by dotted path")
    add("--data", type=Path, default=Path(os.environ.get("KINEMIC_DATA", "../shared/data")), help="recordings")
    add("--prior", type=Path, help="checkpoint, in place of the recipe of the example")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="of the example, as for `kinemic search run`")
    add("--runs", type=Path, default=Path("runs"))
    add("--file", type=Path, default=FILE, help="what is recorded; settings of rows go beside it")
    add("--workers", type=int, default=1)
    add("--again", action="store_true", help="drop what is recorded of these rows, or corpora, first")
    add("--list", action="store_true", help="what is recorded, what is missing, and how long that takes")
    add("--corpus", type=_numbers, help="seeds of generated corpora: 0..4")
    add("--docs", action="store_true", help="draw the tables of docs/results.md and README.md, and the plot")
    return parser


if __name__ == "__main__":
    sys.exit(main())
