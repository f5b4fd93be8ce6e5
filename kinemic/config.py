"""Every configuration of the method, as frozen pydantic models; no torch in here, so that reading a file is instant."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

# Those of data are had from here as all others.
from kinemic.config_data import CorpusReader as CorpusReader
from kinemic.config_data import DataConfig as DataConfig
from kinemic.config_data import Frozen as Frozen
from kinemic.config_data import GeneratedReader as GeneratedReader
from kinemic.config_data import HeldOutSplit as HeldOutSplit
from kinemic.config_data import HumanML3DReader as HumanML3DReader
from kinemic.config_data import IdList as IdList
from kinemic.config_data import JointSet as JointSet
from kinemic.config_data import JointsReader as JointsReader
from kinemic.config_data import NTUReader as NTUReader
from kinemic.config_data import OnBad as OnBad
from kinemic.config_data import Reader as Reader
from kinemic.config_data import RecordingsReader as RecordingsReader
from kinemic.config_data import SplitConfig as SplitConfig
from kinemic.config_data import Units as Units
from kinemic.config_data import UpAxis as UpAxis
from kinemic.errors import DataWarning

# --- text and prior ---------------------------------------------------------------------------------------------


def _called_now(value: Any, names: Mapping[str, str], setting: str) -> Any:
    """Return the name of today for one of an earlier version, with a warning; another value as it is."""
    if not isinstance(value, str) or value not in names:
        return value
    now = names[value]
    warnings.warn(f"{setting}: {value} is called {now} now, and is read as it", DataWarning, stacklevel=2)
    return now


MOST_NUMBERS = 16_384  # of a caption's embedding; CLIP's have 512 to 1280


class TfidfConfig(Frozen):
    """The embedded caption encoder: TF-IDF + SVD fitted on the source captions, nothing downloaded."""

    encoder: Literal["tfidf"] = "tfidf"
    dim: int = Field(64, ge=2, le=MOST_NUMBERS)


class OpenClipConfig(Frozen):
    """A CLIP text tower of open_clip: architecture name, and a pretrained tag or a local file of weights."""

    encoder: Literal["open_clip"] = "open_clip"
    architecture: str = "ViT-B-32"
    pretrained: str = "openai"
    batch_size: int = Field(256, ge=1)


class SentenceConfig(Frozen):
    """A sentence encoder: ``minilm``, which the extra of that name brings, or a folder of sentence-transformers'."""

    encoder: Literal["sentence"] = "sentence"
    model: str = Field("minilm", min_length=1)
    batch_size: int = Field(64, ge=1)


TextConfig = Annotated[TfidfConfig | OpenClipConfig | SentenceConfig, Field(discriminator="encoder")]


MAX_DIFFUSION_STEPS = 5000  # the model's table of positions, which tells it the step, is no longer


class ModelConfig(Frozen):
    """Sizes of the motion diffusion model; the defaults are the public ``humanml_enc_512_50steps``.

    The bounds are far beyond any model of motion: a number that was mistyped is an error, not hours of swapping.
    """

    width: int = Field(512, ge=8, le=8192)
    layers: int = Field(8, ge=1, le=128)
    heads: int = Field(4, ge=1, le=1024)
    ff: int = Field(1024, ge=8, le=32_768)
    dropout: float = Field(0.1, ge=0, lt=1)
    text_dim: int = Field(512, ge=1, le=MOST_NUMBERS)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}: attention splits it evenly")
        return self


Precision = Literal["fp32", "bf16"]


class PretrainConfig(Frozen):
    """How a prior is trained from the source corpus; ``model.text_dim`` follows the text encoder."""

    model: ModelConfig = ModelConfig()
    diffusion_steps: int = Field(50, ge=2, le=MAX_DIFFUSION_STEPS)
    steps: int = Field(10_000, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    optimiser: Literal["adamw", "muon"] = "adamw"
    schedule: Literal["trapezoid", "cosine"] = "trapezoid"  # of the rate, after a warm-up: level then down, half cosine
    average: float = Field(0.0, ge=0, lt=1)  # decay of the running mean of weights that is the prior; 0: the last ones
    condition_dropout: float = Field(0.1, ge=0, le=1)
    max_frames: int = Field(196, ge=16, le=196)
    crop: bool = True  # false leaves clips longer than max_frames out: a crop may not show all that its caption tells
    seed: int = 0
    checkpoint_every: int = Field(1000, ge=1)
    precision: Precision = "fp32"


class PriorConfig(Frozen):
    """Where the prior comes from: a checkpoint file, or a recipe to pretrain one (then kept and reused)."""

    path: Path | None = None
    pretrain: PretrainConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> PriorConfig:
        if (self.path is None) == (self.pretrain is None):
            raise ValueError("give exactly one of path (a checkpoint) and pretrain (a recipe)")
        return self


# --- one trial --------------------------------------------------------------------------------------------------


class MiningConfig(Frozen):
    """Soft positives (METHOD section 2)."""

    top_k: int = Field(250, ge=1)
    threshold: float = Field(0.0, ge=0, lt=1)  # quantile of the class's own similarity distribution; 0 is off
    min_pool: int = Field(4, ge=1)
    per_caption: int = Field(0, ge=0)  # most clips of one sentence in a pool; 0 is off
    floor: float = Field(0.0, ge=0, lt=1)  # similarity that a clip must reach, else the pool stays without it; 0 is off


class LoraConfig(Frozen):
    """Low-rank adapters of the target stream."""

    rank: int = Field(16, ge=1, le=8192)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)


class LossConfig(Frozen):
    """Weights of the loss terms (METHOD section 4); a weight of 0 skips the term's work."""

    rec: float = Field(1.0, ge=0)
    contrastive: float = Field(1.0, ge=0)
    window_rec: float = Field(1.0, ge=0)
    window_distill: float = Field(0.0, ge=0)
    dynamic_window_weighting: bool = True  # of no effect where contrastive is 0: nothing else trains what weighs
    temperature: float = Field(0.07, gt=0)  # initial; learned, clamped as in CLIP
    bank_size: int = Field(60, ge=0)

    @property
    def mines(self) -> bool:
        """Whether any term looks at mined source clips."""
        return self.contrastive > 0 or self.window_rec > 0 or self.window_distill > 0

    @property
    def trains_mic(self) -> bool:
        """Whether MIC learns, so that its attention and similarities mean something; without, neither is asked for."""
        return self.contrastive > 0


# What an action embedding is before the first step: see ``kinemic.adapt.start_actions``.
ActionStart = Literal["normal", "zero", "text"]


class AdaptConfig(Frozen):
    """Fine-tuning of the two streams; a trial is scored at each of ``rungs`` (steps), the last is its budget."""

    rungs: tuple[int, ...] = (2500, 5000, 10_000)
    batch_size: int = Field(30, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    warm_up: float = Field(0.0, ge=0, lt=1)  # share of all steps over which the rate rises
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: half a period, to 0 at the last rung
    action_start: ActionStart = "normal"
    weight_decay: float = Field(1e-5, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    average: float = Field(0.0, ge=0, lt=1)  # decay of the running mean of weights that generates; 0: the last ones
    diffusion_steps: int = Field(50, ge=2, le=MAX_DIFFUSION_STEPS)
    condition_dropout: float = Field(0.1, ge=0, le=1)
    precision: Precision = "fp32"
    lora: LoraConfig = LoraConfig()

    @model_validator(mode="after")
    def _rungs_rise(self) -> AdaptConfig:
        if not self.rungs or self.rungs[0] < 1 or any(b <= a for a, b in zip(self.rungs, self.rungs[1:], strict=False)):
            raise ValueError(f"rungs must be rising step counts of at least 1, got {list(self.rungs)}")
        return self

    @property
    def follows_budget(self) -> bool:
        """Whether a step depends on how many there will be."""
        return self.schedule != "constant" or self.warm_up > 0


ClipSource = Literal["none", "generated", "edited", "mined_clips", "mined_windows", "prior", "mixed"]
RENAMED_SOURCES = {"adapted": "generated"}  # what files of before say, and what it is called now


class SynthesisConfig(Frozen):
    """Where a trial's synthetic clips come from, and how they are sampled, with classifier-free guidance.

    ``none``: there are none. ``generated``: from noise, by the adapted model. ``edited``: mined clips, windows or the
    few shots, in part noised and denoised by the adapted model (SDEdit, arXiv 2108.01073). ``mined_clips``,
    ``mined_windows``: as they are. ``prior``: from noise, by the prior as it is. ``mixed``: mined clips, and clips of
    ``mixed_with``.
    """

    source: ClipSource = "generated"
    clips_per_class: int = Field(20, ge=0)
    strength: float = Field(0.3, ge=0, le=1)  # of an edit: the share of the sampling steps that it is noised by
    edited_from: Literal["mined_clips", "mined_windows", "few_shots"] = "mined_clips"
    mined_share: float = Field(0.5, ge=0, le=1)  # of a mixture's clips
    mixed_with: Literal["generated", "edited", "prior"] = "generated"
    guidance: float = Field(2.5, ge=0)
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    sampling_steps: int = Field(50, ge=1)  # clamped to adapt.diffusion_steps; fewer means respacing
    batch_size: int = Field(64, ge=1)

    @field_validator("source", mode="before")
    @classmethod
    def _as_it_is_called_now(cls, source: Any) -> Any:
        return _called_now(source, RENAMED_SOURCES, "synthesis.source")

    @property
    def parts(self) -> dict[ClipSource, int]:
        """How many clips a class come from each source, a mixture taken apart; empty if there are none."""
        counts: dict[ClipSource, int] = {self.source: self.clips_per_class}
        if self.source == "mixed":
            mined = round(self.mined_share * self.clips_per_class)
            counts = {"mined_clips": mined, self.mixed_with: self.clips_per_class - mined}
        return {source: count for source, count in counts.items() if count > 0 and source != "none"}


RENAMED_PROFILES = {"small": "stgcn", "demo": "stgcn"}  # likewise
JudgeProfile = Annotated[
    Literal["published", "stgcn", "temporal", "smoke"],
    BeforeValidator(lambda profile: _called_now(profile, RENAMED_PROFILES, "judge.profile")),
]


class JudgeConfig(Frozen):
    """The classifier that scores; never searched, because tuning the judge is not tuning the generator."""

    profile: JudgeProfile = "temporal"
    augment: bool = True  # classical augmentation (METHOD section 7), for every row of a table but that without any
    keep: bool = False  # keep the trained judges of the last rung, so that other clips can be scored without training


class TrialConfig(Frozen):
    """Everything that one trial does, but for its data and its seeds."""

    mining: MiningConfig = MiningConfig()
    adapt: AdaptConfig = AdaptConfig()
    loss: LossConfig = LossConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    judge: JudgeConfig = JudgeConfig()

    @property
    def adapts(self) -> bool:
        """Whether a generator is fine-tuned and scored, rung by rung."""
        return not self.synthesis.parts.keys().isdisjoint({"generated", "edited"})

    @property
    def cuts_windows(self) -> bool:
        """Whether windows of mined clips are cut to be training clips, or to be edited to such."""
        parts, edited_from = self.synthesis.parts, self.synthesis.edited_from
        return "mined_windows" in parts or ("edited" in parts and edited_from == "mined_windows")

    @property
    def mines(self) -> bool:
        """Whether pools are asked for: by the fine-tuning, for clips of them, or to know which classes have any."""
        parts = self.synthesis.parts
        takes = self.cuts_windows or not parts.keys().isdisjoint({"mined_clips", "edited"})
        return takes or (self.trains and self.loss.mines) or (bool(parts) and self.mining.floor > 0)

    @property
    def trains(self) -> bool:
        """Whether anything is fine-tuned: a generator, or what finds the windows to be cut."""
        return self.adapts or (self.cuts_windows and self.loss.contrastive > 0)

    @property
    def scored_rungs(self) -> tuple[int, ...]:
        """The rungs, in steps, that a trial reports."""
        return self.adapt.rungs if self.adapts else self.adapt.rungs[-1:]


class TrialSeeds(Frozen):
    """The seeds of one repetition of a trial: one adaptation and synthesis, scored once per judge seed."""

    adaptation: int = 0
    generation: int = 0
    judge: tuple[int, ...] = Field((0, 1, 2), min_length=1)


class ExperimentConfig(Frozen):
    """What is worked on: data, text encoder, prior, trial defaults, seeds; a search adds its own groups to these."""

    data: DataConfig
    text: TextConfig = TfidfConfig()
    prior: PriorConfig
    trial: TrialConfig = TrialConfig()
    seeds: tuple[TrialSeeds, ...] = Field((TrialSeeds(),), min_length=1)  # one a repetition, the same for every trial

    @field_validator("seeds", mode="before")
    @classmethod
    def _one_repetition(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict | TrialSeeds) else value

    @field_validator("seeds")
    @classmethod
    def _comparable(cls, seeds: tuple[TrialSeeds, ...]) -> tuple[TrialSeeds, ...]:
        if len({len(each.judge) for each in seeds}) > 1:
            raise ValueError(f"judge seeds by repetition: {[len(each.judge) for each in seeds]}; give each as many")
        if len({(each.adaptation, each.generation) for each in seeds}) < len(seeds):
            raise ValueError("two repetitions have the same adaptation and generation seed; give each its own")
        return seeds

    @property
    def judge_seeds(self) -> int:
        """How often each repetition is judged."""
        return len(self.seeds[0].judge)
