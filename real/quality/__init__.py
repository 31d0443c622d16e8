"""`python -m real quality`: what a lossy policy costs in text quality, measured, beside what the simulator can know."""

import hashlib
import json
import sys

from real.quality.words import Options
from real.words import checkpoint, configuration, prepare
from traces.kit.strict import dump_json


def main(options: Options) -> int:
    """Run the command; returns the exit status. UserError for a user's mistake."""
    rest = options.rest
    config = configuration(rest, options.config)
    prepare(options.threads)
    from real.quality.compared import measure
    from sim.results.store import Store

    budgets, name = options.budget.split(",") if options.budget else [], checkpoint(rest, config)
    store, documents = Store(options.out), []
    for document in measure(config, name, budgets, options):
        documents.append(document)
        # A device's run is not a function of its configuration: the whole document is its address.
        key = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
        policy, budget = document["policy"]["name"], document["memory"]["budget_bytes"]
        folder = store.folder(f"quality-{policy}-{budget}-{key}")
        store.write_json(folder, "quality.json", document)
        sys.stderr.write(f"written to {folder}\n")
    if options.format == "table":
        try:
            from real.quality.table import show
        except ImportError:  # without rich
            pass
        else:
            show(documents)
            return 0
    shown = documents if len(documents) > 1 else documents[0]
    sys.stdout.write(dump_json(shown))
    return 0
