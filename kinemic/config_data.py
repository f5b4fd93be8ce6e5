"""Configurations of data: readers, splits; and the base of every configuration. No torch in here."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error, as is a switch in place of a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, data: Any) -> Any:
        # Python takes True for 1.
        for name, value in data.items() if isinstance(data, dict) else ():
            wanted = _types_in(cls.model_fields[name].annotation) if name in cls.model_fields else set()
            given = value if isinstance(value, list | tuple) else [value]
            if wanted & {int, float} and bool not in wanted and any(isinstance(each, bool) for each in given):
                raise ValueError(f"{name}: expected a number, got {str(value).lower()}")
        return data


def _types_in(annotation: Any) -> set[Any]:
    """Every type that an annotation of a single value, or of a row of them, names."""
    return {annotation}.union(*(_types_in(each) for each in typing.get_args(annotation)))


class IdList(Frozen):
    """A list of clip ids in a file: a text file of one id a line, or a JSON file with a dotted ``key``."""

    file: Path
    key: str | None = None


class CorpusReader(Frozen):
    """A corpus that ``kinemic data prepare`` has packed."""

    format: Literal["corpus"] = "corpus"
    path: Path


OnBad = Literal["stop", "drop"]


class RecordingsReader(Frozen):
    """What every format of recordings can be told: its frame rate, and what to do about clips that can't be used."""

    fps: float = Field(20.0, ge=1, le=1000)  # of the files; read as 20
    on_bad: OnBad = "stop"  # stop names the first; drop leaves such clips out and notes them
    drop: IdList | None = None  # more clips to leave out, such as the list of `kinemic data check --list`


class HumanML3DReader(RecordingsReader):
    """A HumanML3D folder: ``new_joint_vecs/``, ``texts/``, split lists, ``Mean.npy`` and ``Std.npy``."""

    format: Literal["humanml3d"] = "humanml3d"
    path: Path
    split: str | None = "train"  # name of the list file without .txt; None takes every clip


class NTUReader(RecordingsReader):
    """An NTU-VIBE folder as the KineMIC authors publish it; the subject is the P number of the file name."""

    format: Literal["ntu"] = "ntu"
    path: Path
    shots: str = "S0000"  # folder under splits/fewshot
    task: str = "xsub"


UpAxis = Literal["y", "z", "x", "-y", "-z", "-x"]
Units = Literal["m", "cm", "mm"]
JointSet = Literal["smpl22", "smpl24", "kinect25"]


class JointsReader(RecordingsReader):
    """Plain joint files: npz sets (``rel``, ``root``, ``start``, ``ids``) and one JSON line a clip."""

    format: Literal["joints"] = "joints"
    path: Path
    files: tuple[str, ...]
    clips: str = "clips.jsonl"
    ids: IdList | None = None  # None takes every clip of the files
    up: UpAxis = "y"
    units: Units = "m"
    joints: JointSet = "smpl22"


class GeneratedReader(Frozen):
    """The embedded generated corpus: a parametric kinematic generator, no recordings."""

    format: Literal["generated"] = "generated"
    part: Literal["source", "target"] = "source"
    seed: int = 0
    clips: int = Field(600, ge=1)  # clips in all (source) or clips a class (target)


Reader = Annotated[
    CorpusReader | HumanML3DReader | NTUReader | JointsReader | GeneratedReader, Field(discriminator="format")
]


class SplitConfig(Frozen):
    """Which target clips are the few shots (train) and which score a trial (dev); the test split has no place here.

    Either by drawing (``shots`` clips a class of ``train_subjects``, all clips of ``dev_subjects``) or by lists; with a
    ``train`` list and ``shots``, the shots are drawn from the list.
    Without dev clips, ``folds`` says in how many parts the shots are held out in turn: every trial then adapts,
    generates and classifies once a fold, and once more with all shots for the generator that it leaves.
    """

    classes: tuple[str, ...] | None = None  # None: every class of the target corpus
    shots: int | None = Field(None, ge=1)  # clips a class; None: 10 when drawing, all of a train list
    seed: int = 0
    train_subjects: tuple[str, ...] | None = None
    dev_subjects: tuple[str, ...] | None = None
    train: IdList | None = None
    dev: IdList | None = None
    folds: int | None = Field(None, ge=2)  # dev is k-fold over the few shots, for who has nothing beyond them

    @model_validator(mode="after")
    def _one_way(self) -> SplitConfig:
        if self.folds is not None and (self.dev is not None or self.dev_subjects is not None):
            raise ValueError("give folds (dev is held out of the few shots) or dev clips, not both")
        if self.train is not None and self.train_subjects is not None:
            raise ValueError("give train (a list of ids) or train_subjects (to draw shots from), not both")
        shared = set(self.train_subjects or ()) & set(self.dev_subjects or ())
        if shared:
            raise ValueError(f"subjects {sorted(shared)} are in train and in dev; a dev subject must be unseen")
        return self

    def cost(self, trials: int = 0, repetitions: int = 1, again: int = 0) -> str:
        """Return what k-fold dev costs, a line to show before it starts; empty without folds or runs.

        ``trials`` have so many ``repetitions`` each; ``again`` counts runs on fresh seeds, of one repetition.
        """
        counts = {f"trial{'s' * (trials > 1)}": trials, "runs on fresh seeds": again}
        counted = [f"{count} {what}" for what, count in counts.items() if count]
        if self.folds is None or not counted:
            return ""
        each = trials * repetitions + again
        most = each * self.folds + trials + again
        return (
            f"dev is {self.folds}-fold: {' and '.join(counted)} will take at most {most} adaptations, each with "
            f"generation and judges: {self.folds} for every adaptation seed, and one more with all shots; "
            f"a split with dev clips of its own would take {each}"
        )


class HeldOutSplit(Frozen):
    """Which target clips are the test split: no part of an experiment, only a search's ``confirm`` names it."""

    test: IdList | None = None
    test_subjects: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_split(self) -> HeldOutSplit:
        if (self.test is None) == (self.test_subjects is None):
            raise ValueError("give exactly one of test (a list of ids) and test_subjects")
        return self


class DataConfig(Frozen):
    """The source corpus, the target corpus and the target's few-shot split."""

    source: Reader
    target: Reader
    split: SplitConfig = SplitConfig()
