"""What a search keeps in its folder: its configuration, its study, its trials, its contenders."""

from __future__ import annotations

import json
import secrets
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kinemic.config import RENAMED_PROFILES
from kinemic.documents import dump_yaml, load_result
from kinemic.errors import DataWarning, KinemicError
from kinemic.faults import writing
from kinemic.files import write_text
from kinemic.reading import load_yaml
from kinemic.redaction import without_secrets
from kinemic.report import MiningRanges, TrialInputs
from search.config import SearchConfig, validate
from search.space import Domain, resolve_space

# What a search's settings may change in without a change of its trials: they stay comparable.
CHANGE_NO_TRIAL = ("confirm", "budget.", "resources.", "stages.", "patience")


@dataclass(frozen=True)
class State:
    """What a resumed search must find as it was: the study's name and the prepared inputs.

    ``identity`` is what the search's runs in MLflow are found by: another search of the same name and space, in another
    folder or after this one was deleted, has another. ``settings`` are those it was started with, by which edits of its
    file are noticed; ``ranges`` is what ``auto`` in its space stands for. Searches of before they were kept have none.
    """

    study: str
    source_clips: int
    inputs: TrialInputs
    identity: str = ""
    settings: Mapping[str, Any] | None = None
    ranges: MiningRanges | None = None

    def space(self, config: SearchConfig) -> dict[str, Domain]:
        """Return the space of the search as it was resolved when it was started."""
        return resolve_space(config.space, self.source_clips, config.trial.judge.profile, self.ranges)


@dataclass(frozen=True)
class SearchFolder:
    """The folder of one search, ``runs/NAME``."""

    path: Path

    @property
    def trials(self) -> Path:
        """One folder a trial, named by its number in the study."""
        return self.path / "trials"

    @property
    def contenders(self) -> Path:
        """One folder a contender and repetition."""
        return self.path / "contenders"

    @property
    def contenders_file(self) -> Path:
        """The table of contenders."""
        return self.path / "contenders.json"

    @property
    def confirmation(self) -> Path:
        """One folder a row and repetition of the confirmation, and what each look at the test split saw."""
        return self.path / "confirmation"

    @property
    def confirming(self) -> bool:
        """Whether a confirmation has begun."""
        return self.confirmation.exists() or self.confirmation_file.exists()

    @property
    def confirmation_file(self) -> Path:
        """The confirmation's rows, winner and looks."""
        return self.path / "confirmation.json"

    @property
    def noise(self) -> Path:
        """One folder a measured configuration and seeds, by what they ran on."""
        return self.path / "noise"

    @property
    def noise_file(self) -> Path:
        """What the noise of the search is."""
        return self.path / "noise.json"

    @property
    def report_file(self) -> Path:
        """The report, unless it is wanted elsewhere."""
        return self.path / "report.html"

    @property
    def started(self) -> bool:
        """Whether a search was started here; its state is written last, when all else is there."""
        return self._state.exists()

    @property
    def _state(self) -> Path:
        return self.path / "state.json"

    @property
    def _config(self) -> Path:
        return self.path / "search.yaml"

    def create(self, config: SearchConfig) -> None:
        """Make the folder and write the configuration. Raises KinemicError where it can't be written."""
        with writing(self.path):
            self.trials.mkdir(parents=True, exist_ok=True)
            self.write_config(config)

    def write_config(self, config: SearchConfig) -> None:
        """Write the configuration."""
        write_text(self._config, dump(config))

    def write_state(self, state: State) -> None:
        """Write the state, which makes the search one that is started."""
        data = asdict(state)
        data["inputs"] = {key: str(path) for key, path in data["inputs"].items() if path is not None}
        write_text(self._state, json.dumps(data, indent=1))

    def config(self) -> SearchConfig:
        """Read the configuration as it stands in the folder; ``edits`` tells what of it was changed by hand."""
        return validate(load_yaml(self._config), str(self._config))

    def state(self) -> State:
        """Read the state. Raises KinemicError where it is damaged."""
        state = load_result(self._state, State, "start the search under another name")
        if state is None:
            raise KinemicError(f"{self._state}: no such file; no search was started here")
        # Searches of before identities were tracked under their study's name.
        return state if state.identity else replace(state, identity=state.study)

    def edits(self) -> list[str]:
        """Return what an edit of the folder's file by hand has changed of the trials, a line each.

        Raises KinemicError for a file or state that can't be used. Warns of a state that can't tell.
        """
        started = self.state().settings
        if started is None:
            warnings.warn(
                f"{self._state}: of an earlier version, it can't tell whether {self._config.name} was edited",
                DataWarning,
                stacklevel=2,
            )
            return []
        before, now = (settings_of(config) for config in (validate(dict(started), str(self._state)), self.config()))
        return [line for line in differences(before, now) if not line.startswith(CHANGE_NO_TRIAL)]

    def refuse_edits(self) -> None:
        """Raise KinemicError, naming the first setting with both values, where ``edits`` finds any."""
        if line := self._edited():
            raise KinemicError(
                f"{line}; its trials could not be compared: take the change back, or start another: --set name=NEW"
            )

    def refuse_earlier_judge(self) -> None:
        """Raise KinemicError where trials were scored by a judge that there is no more, whose name opens as another's.

        Such a search can be shown, exported and confirmed; further trials could not be compared.
        """
        for settings in (self.state().settings or {}, load_yaml(self._config)):  # a state may have none
            profile = settings.get("trial", {}).get("judge", {}).get("profile")
            if profile in RENAMED_PROFILES:
                raise KinemicError(
                    f"{self.path}: its trials were scored by the judge {profile} of an earlier version, and "
                    f"{RENAMED_PROFILES[profile]} is another; start another search: --set name=NEW"
                )

    def warn_of_edits(self) -> None:
        """Warn of the same: what is shown is of trials that ran under the settings before."""
        if line := self._edited():
            warnings.warn(f"{line}; what is shown is from before", DataWarning, stacklevel=2)

    def _edited(self) -> str:
        found = self.edits()
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return f"{self._config} was edited by hand: {found[0]}{more}" if found else ""


def settings_of(config: SearchConfig) -> dict[str, Any]:
    """Return the settings of a search without its test split, and without its storage and tracking, which may move."""
    return config.model_dump(mode="json", exclude={"storage", "tracking", "confirm"})


def new_identity(study: str) -> str:
    """Return an identity for a search that starts."""
    return f"{study}-{secrets.token_hex(4)}"


def find(runs: Path, name: str) -> SearchFolder:
    """Return the folder of a search that was started. Raises KinemicError listing those that were."""
    folder = SearchFolder((runs / name).resolve())
    if folder.started and Path(name).name == name:  # a path would lead out of runs
        return folder
    known = sorted(path.parent.name for path in runs.glob("*/state.json"))
    there = f"there are {', '.join(known)}" if known else "there is none"
    raise KinemicError(f"no search {name!r} in {runs}: {there}; start one with `kinemic search run FILE`")


def dump(config: SearchConfig) -> str:
    """Return a configuration as YAML."""
    return dump_yaml(config.model_dump(mode="json"))


def dump_tracked(config: SearchConfig) -> str:
    """Return a configuration as YAML for MLflow: without the test split (METHOD section 6), storage and passwords."""
    data = config.model_dump(mode="json", exclude={"confirm", "storage"})
    return without_secrets(dump_yaml(data))


def differences(there: Any, here: Any, path: str = "") -> Iterator[str]:
    """Yield, for every setting that two dumped configurations do not share, its path and both, without passwords."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys((*there, *here)):
            yield from differences(there.get(key), here.get(key), f"{path}.{key}" if path else key)
    elif there != here:
        yield without_secrets(f"{path} was {there!r} and is {here!r} now")
