"""``python -m ssn_core``: check data, make one run, predict one image."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from ssn_core import check, load_model, preset, run
from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig
from ssn_core.runs.trainer import NonFiniteLoss


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; a user's mistake prints one line and returns 2, a training that breaks down 1, Ctrl-C 130."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.action(options)
    except InputError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except NonFiniteLoss as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"{parser.prog}: {str(error) or 'interrupted'}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ssn_core", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("check", help="compare a data folder with what the data sets should hold")
    command.add_argument("data")
    command.add_argument("--dataset")
    command.add_argument("--category")
    command.set_defaults(action=_check)

    command = commands.add_parser("run", help="train and evaluate one configuration, or load it when finished")
    command.add_argument("preset")
    command.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="changes to the preset, e.g. category=screw")
    command.add_argument("--store", default="data/results")
    command.add_argument("--data-root")
    command.add_argument("--device")
    command.set_defaults(action=_run)

    command = commands.add_parser("predict", help="anomaly scores of images by a finished run")
    command.add_argument("run", help="a run folder that holds its weights")
    command.add_argument("images", nargs="+")
    command.set_defaults(action=_predict)

    command = commands.add_parser("cost", help="hours of the whole study, estimated from the steps of finished runs")
    command.add_argument("--store", default="data/results")
    command.add_argument("--seeds", type=int, default=5)
    command.set_defaults(action=_cost)

    return parser


def _check(options: argparse.Namespace) -> int:
    report = check(options.data, options.dataset, options.category)
    print("\n".join(report.lines))
    return report.status


def _run(options: argparse.Namespace) -> int:
    config = preset(options.preset, **parse_fields(options.fields))
    result = run(config, options.store, options.data_root, options.device)
    for name, value in result.metrics.items():
        print(f"{name}: {value}")
    print(f"run folder: {result.path}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from ssn_core.fast.inference import fold

    model = fold(load_model(options.run))
    print("image,score,map_score")
    for image in options.images:
        prediction = model.predict(image)
        print(f"{image},{prediction.score:.6g},{prediction.map_score:.6g}")
    return 0


def _cost(options: argparse.Namespace) -> int:
    from ssn_core.study.cost import cost, lines

    print("\n".join(lines(cost(options.store, options.seeds))))
    return 0


def parse_fields(pairs: Sequence[str]) -> dict[str, Any]:
    """``name=value`` pairs; values are YAML scalars, ``image_size=640,232`` is a pair, and a field of RunConfig that is
    text stays text (a category may be called 01 or on)."""
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise InputError(f"{pair!r} is not FIELD=VALUE, for example category=screw")
        fields[name] = text if name in _TEXT_FIELDS else _value(pair, name, text)
    return fields


def _value(pair: str, name: str, text: str) -> Any:
    try:
        value = yaml.safe_load(f"[{text}]" if name == "image_size" else text)
    except yaml.YAMLError:
        raise InputError(
            f"{pair!r}: {text!r} is no value; write a number, a word or, for image_size, 640,232"
        ) from None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # YAML takes 1e-4 for text, since it has no point
            return float(value)
    return tuple(value) if isinstance(value, list) else value


_TEXT_FIELDS = {name for name, field in RunConfig.model_fields.items() if isinstance(field.default, str)}


if __name__ == "__main__":
    sys.exit(main())
