"""The program ``python -m real``: what does happen."""

from traces.kit.command import Program

PROGRAM = Program(
    "real",
    "The offloading runtime: the simulator's policies and core on a device, a GPU or\nthis machine's CPU.\n",
    {
        "run": ("real.run:main", "serve prompts, or a trace's routing, on a device"),
        "validate": ("real.validate:main", "the same routing on a device and simulated: how far apart they are"),
        "diff": ("real.diff:main", "where two logs of facts first differ, in words"),
        "calibrate": ("real.calibrate:main", "the runtime's own overheads, added to a hardware profile"),
        "quality": ("real.quality:main", "what a lossy policy costs: perplexity, KL, agreement"),
        "beside": ("real.beside:main", "the library, accelerate and our runtime, each in a process"),
        "peers": ("real.peers:main", "our runtime beside the library and accelerate"),
        "measure": ("real.measure:main", "a machine with a GPU in one go, within minutes"),
        "evaluate": ("real.evaluate:main", "what measure left: replayed, simulated, fitted and judged"),
    },
)
main = PROGRAM.main
