"""The program ``python -m traces``: what happened."""

from traces.kit.command import Program

PROGRAM = Program(
    "traces",
    "Works with recorded routing of Mixture-of-Experts models.\n",
    {
        "check": ("traces.describe.cli:check", "verify a trace: hashes, shapes, every value"),
        "inspect": ("traces.describe.cli:inspect", "show what was recorded, and which experts"),
        "describe": ("traces.synthesize.cli:describe", "measure the figures of a trace's routing, as YAML"),
        "synthesize": ("traces.synthesize.cli:synthesize", "draw a trace of any model from such figures"),
        "augment": ("traces.synthesize.cli:augment", "copy a trace, with signals that it lacks made up"),
        "import": ("traces.importers.cli:IMPORT", "turn a recording of another tool into a trace"),
        "arrivals": ("traces.importers.cli:arrivals", "copy a trace, with the arrivals of a log"),
        "collect": ("traces.collect.cli:record", "record a trace from a Hugging Face model"),
        "calibrate": ("traces.calibrate.cli:calibrate", "measure this machine, for the simulator's prices"),
    },
)
main = PROGRAM.main
