"""The program ``python -m sim``: what would happen."""

from traces.kit.command import Program

PROGRAM = Program(
    "sim",
    "What would happen: recorded expert routing is replayed against an offloading\npolicy, on a simulated machine.\n",
    {
        "run": (
            "sim.experiment.words:run",
            "replay a trace: latency, hits, bytes and stalls, beside the bounds that no lossless policy can beat",
        ),
        "plan": ("sim.plan.words:main", "does it fit, and how fast, before anything is downloaded"),
        "capacity": (
            "sim.capacity.words:main",
            "the highest rate of arrivals at which requests keep within their objectives, by policy and budget",
        ),
        "compare": (
            "sim.results.compare.cli:main",
            "the policies in a folder of results, over budgets: which is faster, by how much, and how sure that is",
        ),
        "report": (
            "sim.experiment.again:main",
            "the same with pictures, as one HTML page that needs no network",
        ),
        "curve": ("sim.experiment.curve:main", "hit rates of caching policies at many budgets, without a clock"),
        "regret": (
            "sim.experiment.regret:main",
            "where the time goes that the runs in a folder take beyond the bound, and by which evictions",
        ),
        "timeline": ("sim.results.side_by_side:main", "the timelines of several runs as one, for Perfetto"),
        "check": ("sim.check.cli:main", "does a policy keep the contract?"),
        "bench": ("sim.experiment.bench:main", "the engine's own speed and memory, or a policy's"),
        "list": ("sim.experiment.listing:main", "policies, models, hardware, traces or experiments, a line each"),
        "config": (
            "sim.experiment.words:config",
            "the resolved configuration of a run or of a grid, for a machine without Hydra",
        ),
    },
    """\
  python -m sim run policy=lru budget=8GB
  python -m sim run --help
  python -m sim plan model=qwen3_30b_a3b hardware=rtx_3090 target='tpot<=50ms'
  python -m sim compare outputs target='tpot<=30ms'
""",
)
main = PROGRAM.main
