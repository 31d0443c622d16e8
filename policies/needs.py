"""What a policy needs of a trace, and how it does without."""

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from policies.signals import Signal


class Needs:
    """A policy's declarations. A switch is a word of the command line, ``policy.KEY=VALUE``, or several of them."""

    signals: ClassVar[frozenset[Signal]] = frozenset()
    without: ClassVar[Mapping[Signal, str]] = {}
    """The switch that makes it do without a signal, where there is one."""
    ahead: ClassVar[str | int] = ""
    """How many layers ahead it looks, and reads ``gate_ahead`` if it does: a number, or the name of the parameter, kept
    under its name, that says so."""
    fitter: ClassVar[str] = ""
    """Where it is said how its predictors are fitted: ``MODULE:CLASS`` of :class:`policies.predictors.fitter.Fitter`;
    "": it has none. ``python -m policies fit`` finds it there, and nobody else imports it."""
    learns: ClassVar[bool] = False
    """Whether it learns from the train requests; see :meth:`wants_history`."""
    unlearned: ClassVar[str] = ""
    """The switch that makes it do without train requests, where there is one."""

    def needs(self) -> frozenset[Signal]:
        """The signals that it reads, with its parameters as they are."""
        return self.signals

    def layers_ahead(self) -> int | None:
        """How many layers ahead it looks, with its parameters as they are; None where it does not say."""
        if isinstance(self.ahead, int):
            return self.ahead
        return int(getattr(self, self.ahead)) if self.ahead else None

    def predictors(self) -> frozenset[str]:
        """The fitted predictors that it reads, by name, with its parameters as they are."""
        return frozenset()

    def unfitted(self, recorded: Collection[Signal]) -> Sequence[str]:
        """What there is to do where these were not fitted for a trace of such signals: switches, and commands.

        A user is told the commands, and those of the switches with which nothing is missing.
        """
        return ()

    def wants_history(self) -> bool:
        """Whether :meth:`policies.api.Policy.fit` wants the train requests, with its parameters as they are."""
        return self.learns
