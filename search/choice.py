"""Which trial of a search is used: the winner of its confirmation, before one the best on dev, or one that is named."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from kinemic.errors import KinemicError
from kinemic.report import shown
from search import confirmation
from search import study as studies
from search.baselines import trial_number
from search.confirmation import Confirmation
from search.folder import SearchFolder
from search.wording import by_objective


@dataclass(frozen=True)
class Choice:
    """A trial, how it came to be chosen, and what is known of its accuracy."""

    trial: FrozenTrial
    how: str
    accuracy: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"trial {self.trial.number}{self.how}: {self.accuracy}"


def choose(folder: SearchFolder, study: optuna.Study, number: int | None = None) -> Choice:
    """Return the trial to use. Raises KinemicError where there is none, or where trial ``number`` can't be used."""
    confirmed = confirmation.load(folder.confirmation_file) if number is None else None
    if confirmed is not None:
        return Choice(_finished(study, _winner(confirmed)), ", the confirmed winner", _confirmed(confirmed))
    if number is not None:
        trial = _finished(study, number)
        return Choice(trial, ", as asked for", _on_dev(trial))
    best, objective = studies.best_trial(study), studies.objective(study)
    return Choice(best, "", f"{_on_dev(best)}; chosen on these clips{by_objective(objective)}")


def _winner(confirmed: Confirmation) -> int:
    number = trial_number(confirmed.winner)
    if number is None:
        raise KinemicError(
            f"the confirmed winner of {confirmed.search!r} is a baseline, {confirmed.winning_row.title}, and no trial; "
            f"to export a trial all the same, name it: kinemic search export {confirmed.search} DIR --trial N"
        )
    return number


def _finished(study: optuna.Study, number: int) -> FrozenTrial:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found = [trial for trial in done if trial.number == number]
    if not found:
        known = ", ".join(str(trial.number) for trial in done) or "none"
        raise KinemicError(f"trial {number} is none that finished; take one of these: {known}")
    return found[0]


def _on_dev(trial: FrozenTrial) -> str:
    last = studies.reports(trial)[-1]
    over = "repetitions" if last.repetition else "judge seeds"
    return f"dev accuracy {last.dev_accuracy:.4f} +- {shown(last.dev_accuracy_se, 4)} (standard error over {over})"


def _confirmed(confirmed: Confirmation) -> str:
    row = confirmed.winning_row
    dev = f"dev accuracy {shown(row.dev_mean, 4)} +- {shown(row.dev_se, 4)} on {confirmed.repetitions} fresh seeds"
    if row.test_interval is None:
        return f"{dev}, test split not opened"
    low, high = row.test_interval
    return f"{dev}, test accuracy {shown(row.test_accuracy, 4)} [{low:.4f}, {high:.4f}]"
