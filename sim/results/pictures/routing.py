"""Of the trace behind the runs: which experts are popular, and how soon they come again (``traces inspect plots=``)."""

from matplotlib.figure import Figure

from traces.describe import plots
from traces.describe.stats import Stats, describe
from traces.format.reader import Trace


def popularity(trace: Trace, stats: Stats | None = None) -> Figure:
    """How often each expert of each layer was chosen, as a multiple of uniform choice."""
    return plots.popularity(trace, stats or describe(trace))


def reuse(trace: Trace, stats: Stats | None = None) -> Figure:
    """Reuse distances in experts of the layer: the share of lookups within each, and quantiles by layer."""
    return plots.reuse_distance(trace, stats or describe(trace))
