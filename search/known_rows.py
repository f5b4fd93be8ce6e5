"""What is known of sources before a search: the rows that it tries first, and that its best trial is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from kinemic.config import TrialConfig
from search.space import CategoricalDomain, Domain, Scalar, active, contains, ordered, published_values

SOURCE: Final = "synthesis.source"
PUBLISHED: Final = "published"
TITLES: Final[dict[str, str]] = {
    "none": "real + augmentation",
    "mined_clips": "mined clips as they are",
    "mined_windows": "mined windows as they are",
    "prior": "prior without fine-tuning",
    "generated": "generated from noise",
    "edited": "mined clips edited",
    "mixed": "mined clips and generated ones",
}
# Tried on real recordings, one shot a class: a rate at which few steps move, started where the prior is, averaged; few
# clips to a pool, since further ones are of other actions.
_RECIPE: Final[dict[str, Scalar]] = {
    "mining.top_k": 10,
    "loss.contrastive": 0.0,
    "adapt.learning_rate": 1e-3,
    "adapt.action_start": "zero",
    "adapt.average": 0.99,
    "synthesis.clips_per_class": 10,
}
_FIRST: Final = ("none", "mined_clips", "prior", "edited")


def first_rows(
    space: Mapping[str, Domain], source_clips: int, trial: TrialConfig
) -> Iterator[tuple[str, dict[str, Scalar]]]:
    """Yield role and values of the trials that a search begins with: the published configuration, then known rows.

    A row whose source the space does not hold is left out. The published one generates, whatever ``trial`` says.
    """
    published = published_values(space, source_clips)
    fixed = SOURCE not in space and trial.synthesis.source != "generated"
    yield PUBLISHED, {SOURCE: "generated", **published} if fixed else published
    sources = space.get(SOURCE)
    for source in _FIRST:
        if isinstance(sources, CategoricalDomain) and source in sources.choices:
            yield source, known_values(space, source, source_clips)


def known_values(space: Mapping[str, Domain], source: str, source_clips: int) -> dict[str, Scalar]:
    """Return the known values of every searched path that a source uses, and the source, which need not be searched.

    What nothing is known of, or lies outside the space, is as published.
    """
    published = published_values({path: d.model_copy(update={"when": {}}) for path, d in space.items()}, source_clips)
    values: dict[str, Scalar] = {SOURCE: source}
    for path, domain in ordered(space):
        if path != SOURCE and active(domain, values):
            known = _RECIPE.get(path, published[path])
            values[path] = known if contains(domain, known) else published[path]
    return values
