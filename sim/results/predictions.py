"""How good a policy's predictions were, of a result."""

from collections.abc import Mapping
from typing import Any

from policies.api import Policy
from sim.core.accounts import FETCHED, PHASES, PREDICTED, RECALL, Accounts

SCORES = (
    ("auc", "share", "scores=true: AUC of what the policy foretells, mean"),
    ("log_loss", "nats", "scores=true: log loss of its probabilities, mean per expert"),
    ("log_loss_of_share", "nats", "of one who knows the share that is demanded, and no more:"),
)
OF_PREDICTIONS = ("accuracy", "fetch_rate", "good_pred")


def predictions(policy: Policy, accounts: Accounts) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """How good predictions were (ProMoE, section 3.1), over both phases and each apart, and why what is null is so.

    None if nothing is predicted. ``predicted`` experts were declared for an event before its gate; one that tokens
    share counts once per event, and so does one that was there already. ``accuracy``: of these, the share that was
    used. ``fetch_rate``: the share that was complete when the gate had run, used or not. ``good_pred``: their product.
    What was predicted too late is in none of them; the hit rate ``recall`` shows it.
    """
    if not accounts.predicts:
        return None, {"prefetch.predictions": f"policy {policy.name} predicts nothing before the gate"}
    nulls: dict[str, str] = {}
    whole: dict[str, Any] = _foretold(accounts.hit_row(), "prefetch.predictions", nulls)
    for i, phase in enumerate(PHASES):
        whole[phase] = _foretold(accounts.hit_row(i), f"prefetch.predictions.{phase}", nulls)
    return whole, nulls


def scores_nulls(scores: Mapping[str, Any] | None) -> dict[str, str]:
    """Why what is null of the scores (sim.experiment.scoring) is so."""
    found = {}
    for phase, own in (scores or {}).items():
        silent = "there are no such events" if not own["events"] else "the policy foretold nothing in them"
        if own["auc"] is None:
            found[f"scores.{phase}.auc"] = "every expert was demanded in each" if own["answered"] else silent
        if own["log_loss"] is None:
            found[f"scores.{phase}.log_loss"] = "its scores are no probabilities" if own["answered"] else silent
        if own["log_loss_of_share"] is None:
            found[f"scores.{phase}.log_loss_of_share"] = silent
    return found


def _foretold(row: list[int], prefix: str, nulls: dict[str, str]) -> dict[str, Any]:
    named = row[PREDICTED]
    if not named:
        nulls[prefix] = "no expert was predicted in time here"
        return {"predicted": 0, **dict.fromkeys(OF_PREDICTIONS)}
    accuracy, fetched = row[RECALL] / named, row[FETCHED] / named
    return {"predicted": named, "accuracy": accuracy, "fetch_rate": fetched, "good_pred": accuracy * fetched}
