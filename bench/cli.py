"""The command line. What a command needs is imported when it runs: `bench list` stays quick."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from bench import __version__
from bench.errors import BenchError, InputError, nearest
from bench.plugin import KINDS


class _Parser(argparse.ArgumentParser):
    """Complains by raising, so that every error is printed in one way."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message, hint=f"see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 well; 1 some cells or contract tests failed, or a file cannot be
        written; 2 bad input; 130 interrupted; 141 the reader of the output went away.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show × shows ?
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return status
    except BenchError as error:
        for one in (getattr(error, "errors", None) and str(error).split("\n")) or [str(error)]:
            print(f"error: {one}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run it again to go on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the interpreter flushes stdout once more at exit, which must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a folder that cannot be written to, a full disk
        if error.filename is None or error.strerror is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def _run(argv: list[str]) -> int:
    parser, commands = _parsers()
    command = next((a for a in argv if not a.startswith("-")), None)
    if command is None:
        parser.parse_args(argv)  # --help and --version leave here
        parser.print_help()
        return 2
    if command not in commands:
        raise InputError(f"there is no command {command!r}", hint=nearest(command, commands))
    args, rest = parser.parse_known_args(argv)
    if rest:
        options = [o for a in commands[command]._actions for o in a.option_strings]
        what = "option" if rest[0].startswith("-") else "argument"
        raise InputError(f"{commands[command].prog} has no {what} {rest[0]!r}",
                         hint=nearest(rest[0].split("=")[0], options) if what == "option"
                         else f"see {commands[command].prog} --help")
    do: Callable[[argparse.Namespace], int] = args.do
    return do(args)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    name = "python -m bench" if Path(sys.argv[0]).name == "__main__.py" else "bench"
    parser = _Parser(prog=name, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter,
                     description="Puts recommenders through attacks and reports what survives.",
                     epilog=f"example:\n  {name} run grid.yaml\n\n"
                            f"`{name} COMMAND --help` explains a command.")
    parser.add_argument("--version", action="version", version=f"recgauntlet {__version__}")
    sub = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    def add(command: str, text: str, do: Callable[[argparse.Namespace], int],
            *examples: str) -> argparse.ArgumentParser:
        made = sub.add_parser(
            command, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="example:\n" + "\n".join(f"  {name} {e}" for e in examples))
        made.set_defaults(do=do)
        return made

    run = add("run", "run a grid, or what is missing of it, and print the leaderboard", _do_run,
              "run grid.yaml", "run grid.yaml --engine processes --workers 4",
              "run grid.yaml --only model=BPR --only attack=fgsm")
    plan = add("plan", "show the cells and trainings of a grid, what is cached and what is "
               "skipped; run nothing", _do_plan, "plan grid.yaml")
    for each in (run, plan):
        each.add_argument("grid", type=Path, metavar="GRID", help="the grid, a YAML file")
        each.add_argument("--results", type=Path, metavar="DIR", default=None,
                          help="folder for results (default: results)")
        each.add_argument("--only", action="append", default=[], metavar="PATTERN",
                          help="only these cells: KEY=PATTERN, KEY among dataset, model, "
                               "defense, attack, seed; may be repeated")
    run.add_argument("--engine", default=None, metavar="NAME",
                     help="inline or processes, instead of the grid's")
    run.add_argument("--workers", type=_count, default=None, metavar="N",
                     help="processes at a time (0: one per core), instead of the grid's")
    run.add_argument("--fresh", action="store_true",
                     help="compute everything anew, whatever is cached")

    listed = add("list", "list the plugins found: datasets, models, attacks, defenses", _do_list,
                 "list", "list attacks", "list models --json")
    listed.add_argument("kind", nargs="?", metavar="KIND", help=f"one of {', '.join(KINDS)}")
    shown = add("show", "show a plugin's documentation, parameters and threat model", _do_show,
                "show attack fgsm", "show model BPR")
    shown.add_argument("kind", metavar="KIND", help="dataset, model, attack or defense")
    shown.add_argument("name", metavar="NAME", help="its name, as `list` prints it")
    for each in (listed, shown):
        each.add_argument("--json", action="store_true", help="print JSON instead")
        each.add_argument("--plugins", type=Path, action="append", default=[], metavar="DIR",
                          help="also look in this folder; may be repeated")

    report = add("report", "make the leaderboard of a run again from its cells", _do_report,
                 "report results/quickstart")
    report.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    new = add("new", "write the skeleton of a plugin, which passes its contract tests", _do_new,
              "new attack my-attack", "new attack my-probe --base embedding",
              "new defense my-defense --into my_plugins")
    new.add_argument("kind", metavar="KIND", help="dataset, model, attack or defense")
    new.add_argument("name", metavar="NAME", help="kebab-case, such as my-attack")
    new.add_argument("--into", type=Path, default=None, metavar="DIR",
                     help="folder to write to (default: the project's own folder for its kind)")
    new.add_argument("--base", default=None, metavar="BASE",
                     help="for attacks: profile (fake users, the default) or embedding")
    test = add("test", "run the contract tests on a plugin file or on a folder of them", _do_test,
               "test attacks/my_attack.py", "test my_plugins")
    test.add_argument("path", type=Path, metavar="PATH", help="a plugin file, or a folder")
    return parser, dict(sub.choices)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 9999")
    return int(text)


def kind_of(text: str) -> str:
    """"attack" or "attacks" -> "attacks". Raises InputError with the nearest."""
    plural = text if text.endswith("s") else f"{text}s"
    if plural not in KINDS:
        raise InputError(f"there is no kind {text!r}", hint=nearest(plural, KINDS))
    return plural


def _do_run(args: argparse.Namespace) -> int:
    from bench.grid import ENGINES

    if args.engine is not None and args.engine not in ENGINES:
        raise InputError(f"there is no engine {args.engine!r}",
                         hint=nearest(args.engine, ENGINES))
    from bench.run import run

    extra = {} if args.results is None else {"results": args.results}
    return run(args.grid, engine=args.engine, workers=args.workers, only=args.only,
               fresh=args.fresh, **extra)


def _do_plan(args: argparse.Namespace) -> int:
    from bench.plan import show_plan

    extra = {} if args.results is None else {"results": args.results}
    return show_plan(args.grid, only=args.only, **extra)


def _do_list(args: argparse.Namespace) -> int:
    from bench.registry import Registry
    from bench.show import list_plugins

    kinds = KINDS if args.kind is None else (kind_of(args.kind),)
    print(list_plugins(Registry(args.plugins), kinds, as_json=args.json))
    return 0


def _do_show(args: argparse.Namespace) -> int:
    from bench.registry import Registry
    from bench.show import show_plugin

    print(show_plugin(Registry(args.plugins), kind_of(args.kind), args.name, as_json=args.json))
    return 0


def _do_report(args: argparse.Namespace) -> int:
    from bench.report import report

    return report(args.run)


def _do_new(args: argparse.Namespace) -> int:
    from bench.scaffold import new

    path = new(kind_of(args.kind), args.name, into=args.into, base=args.base)
    print(f"wrote {path}\nnext: edit it, then check it with\n  bench test {path}")
    return 0


def _do_test(args: argparse.Namespace) -> int:
    if not args.path.exists():
        raise InputError("there is no such file or folder", file=args.path,
                         hint="name a plugin file, or a folder of them")
    from bench.testing import test_path

    return test_path(args.path)
