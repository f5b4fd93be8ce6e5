"""From a reader's configuration to clips, whatever the format."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from kinemic.config import CorpusReader, GeneratedReader, HumanML3DReader, JointsReader, NTUReader, Reader
from kinemic.data.corpus import Clip, Role
from kinemic.data.humanml3d import open_humanml3d
from kinemic.data.joints import open_joints
from kinemic.data.ntu import open_ntu
from kinemic.data.raw import Item, Raw, ReadClip
from kinemic.errors import ConfigError

RawReader = HumanML3DReader | NTUReader | JointsReader | GeneratedReader


def open_raw(reader: Reader, role: Role | None = None) -> Raw:
    """List what a reader names, without reading any clip yet.

    ``role`` decides the least length for joint files, which may be either; other formats know theirs. Raises DataError
    for what is missing, ConfigError for a packed corpus or a role that the format can't have.
    """
    match reader:
        case HumanML3DReader():
            raw = open_humanml3d(reader)
        case NTUReader():
            raw = open_ntu(reader)
        case JointsReader():
            raw = open_joints(reader, role or "target")
        case GeneratedReader():
            raw = open_generated(reader)
        case CorpusReader():
            raise ConfigError(f"{reader.path}: is packed already; expected raw data")
    if role is not None and raw.role != role:
        raise ConfigError(f"format {reader.format} holds {raw.role} clips here; it can't serve as {role}")
    return raw


def open_generated(reader: GeneratedReader) -> Raw:
    """List the embedded generated corpus; its input files are the generator's own source."""
    from kinemic.data.procedural import ALONE_FRAMES, target_classes

    sources = sorted(Path(__file__).parent.glob("procedural*.py"))
    classes = target_classes() if reader.part == "target" else []
    return Raw(
        path=Path(f"generated-{reader.part}"),
        role=reader.part,
        files=tuple(sources),
        total=reader.clips * max(len(classes), 1),
        items=partial(_generated_items, reader, {name: i for i, (name, _) in enumerate(classes)}),
        classes=tuple(name for name, _ in classes),
        class_captions=tuple(tuple(captions) for _, captions in classes),
        least=ALONE_FRAMES,
    )


def _generated_items(reader: GeneratedReader, label_of: dict[str, int]) -> list[Item]:
    from kinemic.data.procedural import GeneratedClip, generate_source, generate_target
    from kinemic.motion import joints_to_features

    generate = generate_source if reader.part == "source" else generate_target

    def load(clip: GeneratedClip) -> list[ReadClip]:
        label = None if clip.action is None else label_of[clip.action]
        segments = tuple((s.action, s.start, s.end) for s in clip.segments)
        whole = Clip(clip.name, joints_to_features(clip.joints_TJ3), clip.captions, label, clip.subject, segments)
        stretches = [
            Clip(
                f"{clip.name}@{s.start}-{s.end}",
                whole.features_TF[s.start : s.end],
                s.captions,
                subject=clip.subject,
                segments=((s.segment.action, s.segment.start - s.start, s.segment.end - s.start),),
            )
            for s in clip.stretches
        ]
        return [ReadClip(c, len(c.features_TF)) for c in (whole, *stretches)]

    return [Item(clip.name, partial(load, clip)) for clip in generate(reader.clips, reader.seed)]
