"""``ssn`` and ``python -m ssn_core``: own images, single runs of the study, the benchmark. Each command loads what it
needs only when it is called: help needs no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssn_core.errors import InputError
from ssn_core.runs import STORE

if TYPE_CHECKING:
    from ssn_core.runs.result import RunResult

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Find surface defects with SuperSimpleNet: train on good images, score new ones, re-run the study.",
)  # fmt: skip
Run = Annotated[str, typer.Argument(metavar="RUN", help="a run folder, or a store or quoted glob that holds one run")]
Fields = Annotated[list[str] | None, typer.Argument(metavar="FIELD=VALUE", help="e.g. category=screw epochs=40")]
Store = Annotated[Path, typer.Option(help="the folder of the run folders")]
DataRoot = Annotated[str | None, typer.Option(help="where the data lie; else SSN_DATA_DIR")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; the GPU where there is one")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; a user's mistake returns 2 and says what it is, a training that breaks down 1, Ctrl-C 130."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    usage_error = typer.BadParameter.__base__  # of typer's own click or of the package, by typer's version
    try:
        with typer.main.get_command(app).make_context("ssn", words or ["--help"]) as context:
            code = context.command.invoke(context) or 0
        sys.stdout.flush()
        return code
    except typer.Exit as done:  # after --help
        return done.exit_code
    except usage_error as error:
        asked = f"; see {error.ctx.command_path} --help" if error.ctx else ""
        return _failed(f"{error.format_message().rstrip('.')}{asked}", 2)
    except InputError as error:
        return _failed(str(error), 2)
    except BrokenPipeError:  # whoever read our output has gone; nor may the interpreter's last flush complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        return _failed(str(error) or "interrupted; what was saved before stays, and the same command starts again", 130)
    except RuntimeError as error:
        from ssn_core.runs.trainer import NonFiniteLoss

        if not isinstance(error, NonFiniteLoss):
            raise
        return _failed(str(error), 1)


def _failed(message: str, code: int) -> int:
    print(f"ssn: {message}", file=sys.stderr)
    return code


@app.command()
def train(
    folder: Annotated[
        Path, typer.Argument(help="images alone (all good), good/ beside defects, or a data set's layout")
    ],
    fields: Fields = None,
    recipe: Annotated[
        str | None, typer.Option(help="a preset [default: memory, filled in one pass; scenario_c with --minutes]")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="the time to spend on a recipe of steps [default: 20]")] = None,
    store: Store = Path(STORE),
    device: Device = None,
) -> None:
    """Train on a folder of own images and choose a threshold.

    Good images are enough.

    Example: ssn train parts/
    """
    from ssn_core.inspection.training import train as train_on
    from ssn_core.runs.presets import parse_fields

    result = train_on(folder, minutes, parse_fields(fields), store, device, recipe)
    _show(result)
    print(f'next: ssn predict {result.path} "new/*.png" --out inspected')


@app.command()
def evaluate(
    run: Run,
    folder: Annotated[Path | None, typer.Argument(help="labelled images; else what the run measured")] = None,
    out: Annotated[Path | None, typer.Option(help="the JSON file [default: RUN/evaluation-FOLDER.json]")] = None,
    device: Device = None,
) -> None:
    """Measure a run on a labelled folder, with masks or without.

    Example: ssn evaluate ssn-runs checked/
    """
    result = _finished(run)
    if folder is None:
        return _show(result)
    from ssn_core.files import write_json
    from ssn_core.inspection.evaluation import evaluate as evaluate_on

    values = evaluate_on(result, folder, device)
    for name, value in values.items():
        print(f"{name}: {value}")
    print(f"written to {write_json(out or result.path / f'evaluation-{folder.resolve().name}.json', values)}")


@app.command()
def predict(
    run: Run,
    images: Annotated[list[str], typer.Argument(metavar="IMAGES", help="files, folders, quoted globs")],
    out: Annotated[Path | None, typer.Option(help="a folder for scores.csv, heatmaps/ and masks/")] = None,
    device: Device = None,
) -> int:
    """Score images and decide by the run's threshold; prints a CSV unless --out is given.

    A file that cannot be read is left out with a line, and the exit code is then 1.

    Example: ssn predict ssn-runs "new/*.png" --out inspected
    """
    result = _finished(run)
    from ssn_core.inspection.prediction import predict as predict_by
    from ssn_core.inspection.threshold import Threshold

    counts = predict_by(result, images, out, device)
    print(Threshold.of(result), file=sys.stderr)
    if out is not None:
        print(f"{', '.join(f'{count} {kind}' for kind, count in counts.items())}: {out / 'scores.csv'}")
    return int(counts["unread"] > 0)


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="a folder of data sets, or of own images")],
    dataset: str | None = None,
    category: str | None = None,
) -> int:
    """Compare a data folder with what it should hold.

    Example: ssn check parts/
    """
    from ssn_core.data.datasets import check as compare

    lines = compare(data, dataset, category)
    print("\n".join(lines))
    return int(any(line.startswith("PROBLEM") for line in lines))


@app.command()
def export(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="the file [default: beside the run's weights]")] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="quantised; needs the run's data, to measure what it costs")
    ] = False,
    data_root: DataRoot = None,
) -> None:
    """Write a run's folded model as one ONNX file, after comparing it with torch.

    Example: ssn export ssn-runs --out parts.onnx
    """
    result = _finished(run)
    if int8:
        from ssn_core.inspection.int8 import export_int8

        export_int8(result, out, data_root)
        return
    from ssn_core.inspection.export import export_onnx

    export_onnx(result.path, out)


@app.command("run")
def run_preset(
    preset: Annotated[str, typer.Argument(metavar="PRESET")],
    fields: Fields = None,
    store: Store = Path(STORE),
    data_root: DataRoot = None,
    device: Device = None,
) -> None:
    """Train and evaluate one configuration of the study, or load it when finished.

    Example: ssn run scenario_a category=screw epochs=40
    """
    from ssn_core.runs.presets import parse_fields
    from ssn_core.runs.presets import preset as configured

    config = configured(preset, **parse_fields(fields))
    from ssn_core.runs.store import run

    result = run(config, store, data_root, device)
    for name, value in result.metrics.items():
        print(f"{name}: {value}")
    print(f"run folder: {result.path}")


@app.command()
def bench(
    profile: Annotated[str, typer.Option(help="what to measure, and where the table goes")] = "cpu",
    only: Annotated[str, typer.Option(metavar="TEXT", help="groups whose name holds this text")] = "",
    peers: Annotated[str | None, typer.Option(metavar="PYTHON", help="of an environment that has anomalib")] = None,
    device: Device = None,
) -> None:
    """Measure speed ratios in one run, print them and write bench.csv beside the profile's figures.

    Example: ssn bench --profile cpu
    """
    from ssn_core.bench.measure import FILE, measure
    from ssn_core.runs.profiles import load_profile

    measured = load_profile(profile)
    measure(measured, device, only, peers)
    print(f"table: {measured.figures / FILE}")


@app.command()
def cost(store: Store = Path("data/results"), seeds: int = 5) -> None:
    """Hours of the whole study, estimated from the steps of finished runs.

    Example: ssn cost --seeds 3
    """
    from ssn_core.study.cost import cost as estimate
    from ssn_core.study.cost import lines

    print("\n".join(lines(estimate(store, seeds))))


def _finished(place: str) -> RunResult:
    from ssn_core.runs.result import load_run, locate_run

    return load_run(locate_run(place))


def _show(result: RunResult) -> None:
    from ssn_core.inspection.threshold import Threshold, not_available
    from ssn_core.metrics import METRICS

    values = {name: result.metrics[name] for name in METRICS}
    for name, value in values.items():
        print(f"{name}: {value}")
    if reason := not_available(values, result.scores.label):
        print(f"n/a: {reason}")
    print(Threshold.of(result))
    print(f"run folder: {result.path}")


if __name__ == "__main__":
    sys.exit(main())
