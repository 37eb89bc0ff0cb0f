"""The queue: one job per run of a profile, then its notebooks, then both PDFs.

    snakemake --cores 2 --config profile=cpu          # all of it
    snakemake runs --cores 2 --config profile=cpu     # the runs alone; -n lists them

What is finished stays, what was interrupted resumes, what fails does not stop the rest; profiles/default/config.yaml
says so, and profiles/slurm runs the same file on a cluster.
"""

import sys
from pathlib import Path

from ssn_core.runs.plan import Plan

PLAN = Plan.of(config.get("profile", "demo"))
NAME = PLAN.profile.name
EXECUTED = f"build/{NAME}/notebooks/{{name}}.ipynb"
NOTEBOOKS = expand(EXECUTED, name=sorted(path.stem for path in Path("notebooks").glob("[0-9]*.ipynb")))

if workflow.is_main_process:
    print(*PLAN.remarks, sep="\n", file=sys.stderr)


def control_of(learned):
    """The control takes its noise from its learned run, so which run that is shows when the learned one is finished."""

    def target(wildcards):
        checkpoints.run.get(run_id=learned)
        control = PLAN.add_control(learned)
        return PLAN.target(control) if control else []

    return target


RUNS = [*map(PLAN.target, PLAN.runs), *map(control_of, PLAN.controlled)]


onstart:
    PLAN.profile.prepare()


rule runs:
    input:
        RUNS,


# The output is the last file of a run alone: what a failed job has declared is deleted, and a run's checkpoint stays.
checkpoint run:
    output:
        PLAN.target("{run_id}"),
    log:
        f"build/{NAME}/log/{{run_id}}.log",
    params:
        command=lambda wildcards: PLAN.command(wildcards.run_id),
    priority: lambda wildcards: PLAN.priority(wildcards.run_id)
    threads: 1
    shell:  # exec: the run itself gets the signal that ends a job
        "exec env OMP_NUM_THREADS={threads} PYTHONUNBUFFERED=1 {params.command} > {log}"


rule notebook:
    input:
        RUNS,
    output:
        EXECUTED,
    params:
        command=f"{sys.executable} -m papermill --cwd . --no-progress-bar -p profile {NAME}",
    shell:
        "exec {params.command} notebooks/{wildcards.name}.ipynb {output}"


# No output: the PDFs are rebuilt in place, whatever their dates say.
rule report:
    default_target: True
    input:
        NOTEBOOKS,
    params:
        command=f"{sys.executable} -m report" + (" --profile demo" if NAME == "demo" else ""),
    shell:
        "exec {params.command}"
