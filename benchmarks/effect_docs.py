"""Tables and plot of the effect, written between the marks of ``docs/results.md`` and ``README.md``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.effect_records import WINNER, Place
from benchmarks.effect_statistics import GENERATED, Estimate, Results, worth
from kinemic.errors import DataError
from kinemic.files import replacing, write_text
from search.baselines import NONE
from search.known_rows import PUBLISHED, TITLES

ROOT = Path(__file__).parent.parent
RESULTS, README, PLOT = ROOT / "docs" / "results.md", ROOT / "README.md", ROOT / "docs" / "images" / "effect.svg"
ROWS = {
    **TITLES,
    "single_stream": "single-stream fine-tuning",
    PUBLISHED: "published configuration",
    WINNER: "winner of the search",
}
REFERENCES = (NONE, PUBLISHED, "mined_clips")
TARGETS = {"utd": "UTD-MHAD", "msr": "MSR-Action3D"}
HEADING = "dev: settings chosen on these people's clips"


def write(results: Results, places: Sequence[Path] = (RESULTS, README), plot: Path = PLOT) -> None:
    """Write every table and the plot. Raises DataError for a document that lacks its marks."""
    for place in places:
        write_text(place, filled(place.read_text(encoding="utf-8"), results))
    draw(results, plot)


def filled(document: str, results: Results) -> str:
    """Return a document with what stands between its marks made anew. Raises DataError where it has none."""
    tables = {"people": people, "corpora": corpora, "effect": gain}
    known = re.compile(rf"(<!-- ({'|'.join(tables)}) -->\n).*?(<!-- end -->)", re.DOTALL)
    text, count = known.subn(lambda found: f"{found[1]}{tables[found[2]](results)}{found[3]}", document)
    if not count:
        raise DataError(f"no table is marked: expected <!-- {' -->, <!-- '.join(tables)} --> up to <!-- end -->")
    return text


def people(results: Results) -> str:
    """Return a table for every target and number of shots."""
    return "\n".join(_of_people(results, *group) for group in results.groups(generated=False)) or _NOTHING


def _of_people(results: Results, target: str, shots: int) -> str:
    keys = [key for key in ROWS if key in results.rows(target, shots)]
    beside = [key for key in REFERENCES if key in keys]
    curve = results.curve(target, NONE)
    head = ["", "accuracy %", *(f"minus {ROWS[key]}" for key in beside), "worth real shots", "draw 0 %"]
    lines = []
    for key in keys:
        place = Place(target, shots, key)
        accuracy, first = results.accuracy(place), results.chosen_on(place)
        less = [None if key == other else results.difference(place, other) for other in beside]
        lines.append(
            [
                ROWS[key],
                f"{100 * accuracy.value:.1f}" if accuracy else "",
                *(difference.points if difference else "" for difference in less),
                _worth(curve, accuracy) if accuracy and key != NONE else "",
                "" if first is None else f"{100 * first:.1f}",
            ]
        )
    draws = max((found.count for key in keys if (found := results.accuracy(Place(target, shots, key)))), default=0)
    title = f"### {told(target)}, {shots} shot{'s' * (shots > 1)} a class, {draws} draw{'s' * (draws != 1)}"
    return f"{title}\n\n{HEADING}\n\n{_table(head, lines)}"


def corpora(results: Results) -> str:
    """Return the table of generated corpora: a search each, its best trial beside the rows that it must beat."""
    beside = (NONE, PUBLISHED)
    found = [(target, shots) for target, shots in results.groups(generated=True)]
    lines, clear = [], dict.fromkeys(beside, 0)
    for target, shots in found:
        best = Place(target, shots, WINNER)
        less = {key: results.difference(best, key) for key in beside}
        means = (results.accuracy(best._replace(row=key)) for key in (*beside, WINNER))
        for key, difference in less.items():
            clear[key] += difference is not None and difference.low > 0
        lines.append(
            [
                f"{target.removeprefix(GENERATED)}, {shots} shot{'s' * (shots > 1)}",
                *(f"{100 * mean.value:.1f}" if mean else "" for mean in means),
                *(difference.points if difference else "" for difference in less.values()),
            ]
        )
    if not lines:
        return _NOTHING
    head = ["corpus", *(f"{name} %" for name in (*(ROWS[key] for key in beside), "best trial"))]
    head += [f"best trial minus {ROWS[key]}" for key in beside]
    last = ["intervals above 0", "", "", "", *(f"{clear[key]} of {len(lines)}" for key in beside)]
    return _table(head, [*lines, last])


def gain(results: Results) -> str:
    """Return the README's table: what the winner, or before there is one mined clips, add to real clips."""
    lines = []
    for target, shots in results.groups(generated=False):
        there = results.rows(target, shots)
        key = next((row for row in (WINNER, "mined_clips") if row in there), None)
        if key is None or not (difference := results.difference(Place(target, shots, key), NONE)):
            continue
        real, ours = (results.accuracy(Place(target, shots, row)) for row in (NONE, key))
        assert real
        assert ours
        accuracies = [f"{100 * mean.value:.1f}" for mean in (real, ours)]
        lines.append([told(target), str(shots), accuracies[0], ROWS[key], accuracies[1], f"**{difference.points}**"])
    head = ["people", "real shots a class", f"{ROWS[NONE]} %", "added", "with it %", "gain, points [95 %]"]
    return _table(head, lines) if lines else _NOTHING


def told(target: str) -> str:
    """Return a target's name as a reader knows it: ``utd10`` is UTD-MHAD, 10 classes."""
    name, classes = re.fullmatch(r"(\D+)(\d+)", target).groups()  # type: ignore[union-attr]
    return f"{TARGETS.get(name, name)}, {classes} classes"


def _worth(curve: Mapping[int, Estimate], accuracy: Estimate) -> str:
    if len(curve) < 2:
        return ""
    shots, most = worth(curve, accuracy.value), max(curve)
    return f"more than {most}" if math.isinf(shots) else f"{shots:.1f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


_NOTHING = "Nothing is recorded yet.\n"


def draw(results: Results, file: Path) -> None:
    """Plot accuracy against real shots, a line a row and a panel a target, with 95 % intervals over draws."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    targets = sorted({target for target, _ in results.groups(generated=False)})
    if not targets:
        return
    mpl.rcParams["svg.hashsalt"] = "effect"  # the same picture is the same file
    figure = Figure(figsize=(4 * len(targets), 4), layout="constrained")
    panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
    for panel, target in zip(panels, targets, strict=True):
        for number, key in enumerate(ROWS):
            if curve := results.curve(target, key):
                shots = sorted(curve)
                values = [100 * curve[k].value for k in shots]
                reach = [100 * min(curve[k].high - curve[k].value, 1.0) for k in shots]
                shifted = [k * (1 + 0.01 * (number - len(ROWS) / 2)) for k in shots]  # so that bars can be told apart
                panel.errorbar(shifted, values, reach, label=ROWS[key], color=f"C{number}", marker="o", ms=3, capsize=2)
        panel.set(title=told(target), xlabel="real shots a class", xscale="log", ylim=(None, 100))
        ticks = sorted({shots for of, shots in results.groups(generated=False) if of == target})
        panel.set_xticks(ticks, [str(k) for k in ticks])
        panel.set_xlim(0.85 * ticks[0], 1.15 * ticks[-1])
        panel.minorticks_off()
    panels[0].set_ylabel("accuracy on dev, %")
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    with replacing(file) as temporary:
        figure.savefig(temporary, metadata={"Date": None})
