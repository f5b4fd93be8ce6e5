"""What ``kinemic data check`` looks at: one data set, or everything that an experiment's or a search's file names."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kinemic.commands.data_options import Named
from kinemic.config import (
    CorpusReader,
    DataConfig,
    ExperimentConfig,
    HeldOutSplit,
    RecordingsReader,
)
from kinemic.console import progress_bars
from kinemic.data.check import check_split, findings, survey
from kinemic.data.corpus import Corpus
from kinemic.data.measures import Finding
from kinemic.data.prepare import prepare
from kinemic.data.readers import open_raw
from kinemic.data.splits import choose_test, load_trial_data
from kinemic.errors import DataWarning, KinemicError
from kinemic.inputs import prepare_trial_data
from kinemic.prior import load_prior
from kinemic.reading import load_experiment, load_yaml, parse
from kinemic.text import TextEncoder, build_encoder


def check_set(named: Named) -> tuple[list[Finding], list[str]]:
    """Return the findings on one data set, and its captions; a folder that is missing is a finding, not the end."""
    try:
        packed = isinstance(named.reader, CorpusReader)
        data = Corpus.open(named.reader.path) if packed else open_raw(named.reader, named.role)  # type: ignore[union-attr]
        with progress_bars() as progress:
            seen = survey(data, progress)
        found = findings(data, seen)
        found += check_split(load_trial_data(data.path)) if data.role == "trial" else []
        return found, [*seen.captions, *itertools.chain.from_iterable(data.class_captions)]
    except KinemicError as error:
        return [Finding("error", str(error), 1)], []


def check_experiment(path: Path) -> dict[str, list[Finding]]:
    """Return the findings on both data sets of a file, its split, the test split that it names, encoder and prior."""
    experiment = load_experiment(path)
    data = experiment.data
    source, captions = check_set(Named("source", data.source, "source"))
    target, _ = check_set(Named("target", data.target, "target"))
    split, prompts = _split(data, _held_out(path))
    return {
        "source": source,
        "target": target,
        "split": split,
        "text and prior": _models(experiment, captions, prompts),
    }


def clip_lines(found: Mapping[str, Sequence[Finding]]) -> Iterator[str]:
    """Yield a line for every clip with an error or a warning: its id, a tab, and what it is."""
    lines: dict[str, list[str]] = {}
    for finding in itertools.chain.from_iterable(found.values()):
        for place, name in enumerate(finding.clips if finding.level != "info" else ()):
            what = finding.reasons[place] if finding.reasons else finding.what
            lines.setdefault(name, []).append(f"{finding.level}: {what}")
    return (f"{name}\t{'; '.join(dict.fromkeys(whats))}" for name, whats in lines.items())


def _held_out(path: Path) -> HeldOutSplit | None:
    """The test split under a search's ``confirm``; what else lies there is the search's own."""
    confirm = load_yaml(path).get("confirm")
    if not isinstance(confirm, dict):
        return None
    named = {key: value for key, value in confirm.items() if key in HeldOutSplit.model_fields}
    return parse(HeldOutSplit, named, f"{path}: confirm")


def _split(data: DataConfig, test: HeldOutSplit | None) -> tuple[list[Finding], list[str]]:
    """Findings on the split and the test split, and the captions of its classes: those that a trial is given.

    Both are drawn from the target as it is packed without its unusable clips.
    """
    if isinstance(data.target, RecordingsReader):
        data = data.model_copy(update={"target": data.target.model_copy(update={"on_bad": "drop"})})
    try:
        with tempfile.TemporaryDirectory() as scratch, progress_bars() as progress, _gathered() as warned:
            trial = load_trial_data(prepare_trial_data(data, Path(scratch), progress))
            warned.clear()  # copies among train and dev are a finding already
            found = check_split(trial)
            if test is not None:
                target = prepare(data.target, Path(scratch) / "corpora", progress, role="target")
                chosen = choose_test(target, trial, test.test_subjects, test.test)
                found.append(Finding("info", "test clips", len(chosen)))
            rows = [Finding("warning", str(warning.message), 1) for warning in warned]
            return [*rows, *found], list(itertools.chain.from_iterable(trial.corpus.class_captions))
    except KinemicError as error:
        return [Finding("error", str(error), 1)], []


@contextmanager
def _gathered() -> Iterator[list[warnings.WarningMessage]]:
    """Gather warnings, so that they become rows."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", DataWarning)
        yield warned


def _models(experiment: ExperimentConfig, captions: Sequence[str], prompts: Sequence[str]) -> list[Finding]:
    found: list[Finding] = []
    encoder: TextEncoder | None = None
    try:
        encoder = build_encoder(experiment.text, captions)
        found.append(Finding("info", f"text encoder {encoder.id}", 1))
        if experiment.text.encoder == "tfidf":  # CLIP embeds whatever it is given, and takes its time
            encoder.encode(sorted({*captions, *prompts}))
    except KinemicError as error:
        found.append(Finding("error", str(error), 1))
    if experiment.prior.path is not None:
        try:
            load_prior(experiment.prior.path, None if encoder is None else encoder.id)
        except KinemicError as error:
            found.append(Finding("error", str(error), 1))
    return found
