"""What a search keeps in its folder: its configuration, its study, its trials, its contenders."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kinemic.documents import dump_yaml
from kinemic.errors import KinemicError
from kinemic.faults import writing
from kinemic.files import write_text
from kinemic.reading import load_yaml
from kinemic.redaction import without_secrets
from kinemic.report import TrialInputs
from search.config import SearchConfig, validate


@dataclass(frozen=True)
class State:
    """What a resumed search must find as it was: the study's name and the prepared inputs.

    ``identity`` is what the search's runs in MLflow are found by: another search of the same name and space, in another
    folder or after this one was deleted, has another.
    """

    study: str
    source_clips: int
    inputs: TrialInputs
    identity: str


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
        data = {"study": state.study, "identity": state.identity, "source_clips": state.source_clips}
        data["inputs"] = {key: str(path) for key, path in asdict(state.inputs).items() if path is not None}
        write_text(self._state, json.dumps(data, indent=1))

    def config(self) -> SearchConfig:
        """Read the configuration that the search was started with."""
        return validate(load_yaml(self._config), str(self._config))

    def state(self) -> State:
        """Read the state. Raises KinemicError where it is damaged."""
        try:
            data = json.loads(self._state.read_text(encoding="utf-8"))
            inputs = TrialInputs(**{name: Path(path) for name, path in data["inputs"].items()})
            # Searches of before identities were tracked under their study's name.
            return State(data["study"], data["source_clips"], inputs, data.get("identity", data["study"]))
        except (ValueError, KeyError, TypeError) as error:
            raise KinemicError(f"{self._state}: damaged ({error}); start the search under another name") from error


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
