"""What a lossy policy cost in quality, as far as a replay can know it (docs/design.md, rule 8).

First-order: with other experts the later layers and tokens would have been routed otherwise, and no trace shows how.
"""

from typing import Any

from policies.api import Policy
from sim.core.accounts import (
    GATE_MASS,
    KEPT_MASS,
    LOW_PRECISION,
    PHASES,
    SKIPPED,
    SLOTS,
    SUBSTITUTED,
    UNSTATED,
    Accounts,
)

SHARES = {"substituted": SUBSTITUTED, "skipped": SKIPPED, "low_precision": LOW_PRECISION}


def quality(policy: Policy, accounts: Accounts) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The shares, over both phases and each apart, and why what is null in them is so; None for a lossless policy.

    ``stale`` (slots that were computed from an old hidden state) is there only where the policy may precompute.
    None, too, for one of a modified model, whose quality no replay of the original can know.
    """
    if policy.lossless:
        why = "is of a modified model, which did not choose this routing" if policy.modified else "is lossless"
        return None, {"quality": f"policy {policy.name} {why}"}
    nulls: dict[str, str] = {}
    stale = accounts.stale if policy.uses("precompute") else None
    both = None if stale is None else sum(stale)
    whole: dict[str, Any] = _shares(policy.name, accounts.quality_row(), both, "quality", nulls)
    for i, phase in enumerate(PHASES):
        own = None if stale is None else stale[i]
        whole[phase] = _shares(policy.name, accounts.quality_row(i), own, f"quality.{phase}", nulls)
    return whole | {"first_order": True}, nulls


def _shares(
    name: str, row: list[float], stale: int | None, prefix: str, nulls: dict[str, str]
) -> dict[str, float | None]:
    slots, mass = row[SLOTS], row[GATE_MASS]
    known = {share: row[i] for share, i in SHARES.items()} | ({} if stale is None else {"stale": stale})
    shares: dict[str, float | None] = dict.fromkeys(("kept_gate_mass", *known))
    if not slots:
        nulls[prefix] = f"policy {name} stated no slots here"
    else:
        shares.update({share: amount / slots for share, amount in known.items()})
    if row[UNSTATED]:
        nulls[f"{prefix}.kept_gate_mass"] = f"policy {name} did not state it for {int(row[UNSTATED])} events"
    elif not mass:
        nulls[f"{prefix}.kept_gate_mass"] = f"policy {name} stated no gate mass here"
    else:
        shares["kept_gate_mass"] = row[KEPT_MASS] / mass
    return shares
