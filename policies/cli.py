"""The program ``python -m policies``: fit predictors before a run, and write what they say beside a trace."""

from traces.kit.command import Program

PROGRAM = Program(
    "policies",
    "Fits what policies predict with.\n",
    {
        "fit": ("policies.predictors.fitting:FIT", "fit the predictors of a policy, such as promoe, on train requests"),
        "apply": ("policies.predictors.fitting:APPLY", "write what they say beside a trace"),
    },
)
main = PROGRAM.main
