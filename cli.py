"""The command line: parses arguments, calls the library, prints. Heavy imports happen inside the commands."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from provenn.errors import InputError, ProvennError

if TYPE_CHECKING:
    from provenn.verifier.arguments import Networks
    from provenn.verifier.options import Options
    from provenn.verifier.report import Answer

EPILOG = """
Exit codes: 0 a verdict (unsat, sat, unknown or timeout) is on standard output; 1 a file is at fault or cannot
be written, or the device is not there; 2 wrong usage; 3 the verifier itself failed ("unknown" is printed);
130 interrupted, 143 terminated. Errors are one line on standard error.
"""
ANSWERS = """
Exit codes: 0 the answer is on standard output; 1 a file is at fault or cannot be written, or no answer exists for this
network and region; 2 wrong usage; 3 provenn itself failed; 130 interrupted, 143 terminated. Errors are one line on
standard error.
"""


def _existing(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Refuse what is certainly not a readable file before anything heavy is loaded."""
    from provenn.verifier.arguments import readable

    return readable(value, (parameter.name or "").removesuffix("_path"))


def _options(**given: Any) -> Options:
    """The options that the command line gives, checked before any work; a wrong one is named by its flag."""
    from provenn.verifier.options import Options

    try:
        return Options(**given)
    except InputError as wrong:
        raise click.UsageError(str(wrong).replace("Options got ", "got --")) from wrong


@click.group(epilog=EPILOG, invoke_without_command=True)
@click.version_option(package_name="provenn", message="%(version)s")
@click.option("--name", "name", is_flag=True, help="Show the tool's name and exit.")
@click.pass_context
def commands(context: click.Context, name: bool) -> None:
    """Prove or refute properties of neural networks."""
    if name:
        _print("provenn\n")
        raise click.exceptions.Exit(0)
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        raise click.exceptions.Exit(2)


def _what(files: Sequence[str], assignments: Sequence[str]) -> tuple[Networks, str]:
    """The networks and the property that ``verify`` is asked about. Raises InputError."""
    from provenn.verifier import arguments

    if assignments:
        if len(files) != 1:
            raise click.UsageError(f"got {len(files)} files beside --network, expected PROPERTY.vnnlib alone")
        networks: Networks = arguments.by_name(assignments)
    elif len(files) != 2:
        wrong = f"Missing argument {'NET.onnx' if not files else 'PROPERTY.vnnlib'!r}"
        if len(files) > 2:
            wrong = f"Got unexpected extra argument ({files[2]})"
        raise click.UsageError(f"{wrong}; expected NET.onnx PROPERTY.vnnlib or PROPERTY.vnnlib --network NAME=FILE")
    else:
        networks = arguments.named(files[0])
    if isinstance(networks, Mapping):
        found = {name: arguments.present(path) for name, path in networks.items()}
        for path in found.values():
            arguments.readable(path, "network")
        return found, arguments.readable(files[-1], "property")
    return arguments.readable(os.fspath(networks), "network"), arguments.readable(files[-1], "property")


@commands.command(epilog=EPILOG)
@click.argument("files", nargs=-1, metavar="NET.onnx PROPERTY.vnnlib")
@click.option(
    "--network",
    "assignments",
    multiple=True,
    metavar="NAME=FILE",
    help="The file of a network that a VNN-LIB 2 property declares, in place of NET.onnx; may be repeated.",
)
@click.option(
    "--serialise-assignments",
    "folder",
    metavar="DIR",
    help="Write the witness of a sat verdict into DIR, a NAME.pb for each tensor, instead of printing it.",
)
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds for the whole process.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=int, help="CPU threads; default: all that the process may use.")
@click.option("--memory", type=float, metavar="GB", help="Memory the process may use; default: what is free.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@click.option(
    "--witness",
    metavar="FILE",
    help="Write the witness of a sat verdict to FILE as well (/dev/stdout: after the answer).",
)
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="Write verdict, reason, statistics, strategy, versions to FILE (/dev/stdout: after the answer).",
)
@click.option("-v", "--verbose", is_flag=True, help="Explain the verdict on standard error, log every stage.")
def verify(
    files: tuple[str, ...],
    assignments: tuple[str, ...],
    folder: str | None,
    timeout: float,
    device: str,
    threads: int | None,
    memory: float | None,
    seed: int,
    witness: str | None,
    json_file: str | None,
    verbose: bool,
) -> None:
    """Decide whether a network violates a property in VNN-LIB 1.0 or 2.

    The first line of standard output is unsat (the property holds), sat (a violating input follows, in the
    competition's format), unknown or timeout. Files may be gzipped (.gz).

    The VNN-LIB standard's own form is verify PROPERTY.vnnlib --network NAME=FILE ..; there a timeout is timed-out.
    Several networks may also be given as NET.onnx, in the competition's form "[('NAME','FILE'), ..]".
    """
    network, property_path = _what(files, assignments)
    from provenn.verifier import history, report, targets, watchdog

    # Idle OpenMP threads that spin take the cores of whatever else runs; read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    started = watchdog.process_start()
    options = _options(
        timeout=timeout,
        started=started,
        device=device,
        threads=threads,
        memory=memory,
        seed=seed,
        verbose=verbose,
    )
    wanted = {"--witness": witness, "--json": json_file}
    named = network if isinstance(network, Mapping) else {"NET.onnx": network}
    read = {name: os.fspath(path) for name, path in named.items()} | {"PROPERTY.vnnlib": property_path}
    _check_targets(wanted, read)
    if folder is not None:
        targets.make_folder(folder)
    line = report.ProgressLine(sys.stderr, started, enabled=not verbose)
    seen = history.History()

    def watch(message: watchdog.Message) -> None:
        line(message)
        seen.add(time.monotonic() - started, message)

    try:
        outcome = watchdog.supervise(
            lambda send: report.work(network, property_path, options, send),
            started + timeout,
            memory=memory,
            watch=watch,
            verbose=verbose,
        )
    finally:
        line.clear()
    seconds = time.monotonic() - started
    answer = report.conclude(
        outcome, network, property_path, options, seconds=seconds, history=seen,
        standard=bool(assignments), serialised=folder is not None,
    )  # fmt: skip
    _end(answer, verbose=verbose, witness=witness, json_file=json_file, assignments=folder)


def _check_targets(wanted: Mapping[str, str | None], read: Mapping[str, str]) -> None:
    """Refuse files to be written that cannot be, or that are read, before any work."""
    from provenn.verifier import targets

    if wrong := targets.clash(wanted, read):
        raise click.UsageError(wrong)
    for name, path in wanted.items():
        if path is not None:
            targets.check_target(path, name)


def _end(answer: Answer, *, verbose: bool = False, **files: str | None) -> NoReturn:
    """Hand over an answer, complain about files that could not be written, exit."""
    from provenn.verifier import report

    errors = report.deliver(answer, _print, **files)
    for error in errors:
        _complain(error)
    if not errors and (verbose or sys.stderr.isatty()):
        click.echo("\n".join([answer.summary, *(answer.details if verbose else ())]), err=True)
    raise click.exceptions.Exit(answer.code or (report.REFUSED if errors else report.ANSWERED))


def _existing_if_given(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else _existing(context, parameter, value)


def _region(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments that two commands share."""
    for add in reversed(
        (
            click.argument("network", metavar="NET.onnx", callback=_existing),
            click.option("--region", "property_path", metavar="PROPERTY.vnnlib", callback=_existing_if_given,
                         help="A property: the box around all inputs it speaks of is taken."),
            click.option("--center", "center_path", metavar="FILE", callback=_existing_if_given,
                         help="As many numbers as the network has inputs: text, between them spaces, commas or "
                              "lines (# begins a comment), or an array saved by numpy (.npy)."),
            click.option("--radius", type=float, metavar="EPS",
                         help="Half the width of the cube around the centre (lipschitz: inf is the whole space)."),
            click.option("--timeout", type=float, default=60.0, show_default=True,
                         help="Seconds for the whole process."),
            click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
            click.option("--threads", type=click.IntRange(min=1),
                         help="CPU threads; default: all that the process may use."),
            click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                         help="Seed of the sampled points."),
            click.option("--json", "json_file", metavar="FILE", help="Write the answer to FILE as well."),
        )
    ):  # fmt: skip
        command = add(command)
    return command


@commands.command(epilog=ANSWERS)
@_region
@click.option("--norm", type=click.Choice(["1", "2", "inf"]), default="2", show_default=True, help="Of the Jacobian.")
@click.option("--output", type=click.IntRange(min=0), metavar="J", help="Of this row of the Jacobian alone.")
@click.option("--tolerance", type=float, default=1e-3, show_default=True, help="Relative gap that is small enough.")
def lipschitz(norm: str, output: int | None, tolerance: float, **given: Any) -> None:
    """Bound the largest norm of a network's Jacobian over a box of inputs.

    Standard output is two lines, lower and upper: proven bounds of the local Lipschitz constant. With a time limit that
    is too short the gap is larger.
    """
    if not 0 <= tolerance < float("inf"):
        raise click.UsageError(f"got --tolerance={tolerance!r}, expected a finite number of at least 0")
    _ask("lipschitz", norm=norm, output=output, tolerance=tolerance, **given)


@commands.command(epilog=ANSWERS)
@_region
@click.option("--input", type=click.IntRange(min=0), required=True, metavar="I", help="The input that grows.")
@click.option("--output", type=click.IntRange(min=0), required=True, metavar="J", help="The output that follows.")
@click.option("--direction", type=click.Choice(["up", "down"]), default="up", show_default=True)
def monotone(input: int, output: int, direction: str, **given: Any) -> None:
    """Decide whether an output never falls (up) or never rises (down) as one input grows, over a box of inputs.

    The first line of standard output is proved, refuted (two inputs that differ in that input only follow) or unknown.
    """
    _ask("monotone", input=input, output=output, direction=direction, **given)


def _ask(
    command: str, network: str, property_path: str | None, center_path: str | None, radius: float | None,
    timeout: float, json_file: str | None, **more: Any,
) -> NoReturn:  # fmt: skip
    """Answer a question about derivatives in a process of its own, print it and end."""
    from provenn.verifier import answers, report, watchdog

    if wrong := answers.wrong_call(command, property_path, center_path, radius, timeout):
        raise click.UsageError(wrong)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    started = watchdog.process_start()
    inputs = {"NET.onnx": network, "--region": property_path, "--center": center_path}
    _check_targets({"--json": json_file}, {name: path for name, path in inputs.items() if path})
    question = answers.Question(
        command, network, property_path, center_path, radius, started + timeout, timeout, **more
    )
    line = report.ProgressLine(sys.stderr, started)
    try:
        outcome = watchdog.supervise(lambda send: answers.work(question, send), started + timeout, watch=line)
    finally:
        line.clear()
    _end(answers.conclude(outcome, question, time.monotonic() - started), witness=None, json_file=json_file)


def _capabilities(command: Callable[..., None]) -> Callable[..., None]:
    """A flag for everything that can be asked."""
    from provenn.verifier.supports import CAPABILITIES

    for name in reversed(CAPABILITIES):
        command = click.option(f"--{name}", "capability", flag_value=name)(command)
    return command


@commands.command()
@_capabilities
def supports(capability: str | None) -> None:
    """Say what can be decided, in the words of the VNN-LIB standard.

    A note after a * qualifies the word before it.
    """
    from provenn.verifier import supports as answers

    if capability is None:
        raise click.UsageError("Missing option; ask for one, such as --vnnlib-versions")
    _print("\n".join(answers.capability(capability)) + "\n")


@commands.command()
@click.argument("network", metavar="NET.onnx", callback=_existing)
def inspect(network: str) -> None:
    """Show a network: graph, shapes, parameters, operators and which of them provenn can bound."""
    from provenn.bounds.graph import describe, read_onnx

    _print(describe(read_onnx(network)).rstrip("\n") + "\n")


@commands.command()
@click.argument("source", metavar="FOLDER|instances.csv")
@click.option(
    "-o", "--output", required=True, metavar="results.csv", help="Appended to; rows in it are not run again."
)
@click.option("--timeout", type=float, help="Seconds per instance; default: what instances.csv says.")
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Instances at a time; default: 1, on a cluster its CPUs / threads."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads of an instance; default: cores / jobs."
)
@click.option("--memory", type=float, metavar="GB", help="Memory an instance may use.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--witnesses", metavar="DIR", help="Write the witness of every sat instance into DIR.")
@click.option("--reports", metavar="DIR", help="Write the JSON report of every instance into DIR.")
@click.option("--cluster", metavar="ADDRESS|auto", help="Run on this Ray cluster; threads of an instance: 1.")
def bench(
    source: str,
    output: str,
    timeout: float | None,
    jobs: int | None,
    device: str,
    threads: int | None,
    memory: float | None,
    seed: int,
    witnesses: str | None,
    reports: str | None,
    cluster: str | None,
) -> None:
    """Run a benchmark folder, a folder of such folders, or an instances.csv.

    Every instance runs in a process of its own. results.csv gets a row per instance in the competition's format
    (category,onnx,vnnlib,prepare_time,verdict,run_time); a second call goes on where the first one stopped.
    The nodes of a cluster need provenn, and the files under the same paths.
    """
    _options(timeout=60.0 if timeout is None else timeout, threads=threads, memory=memory, seed=seed)
    from provenn.verifier import batch, launch

    launcher: Callable[[int], launch.Launcher] = launch.launcher
    if cluster is not None:
        from provenn.verifier.cluster import Cluster, connect

        launcher, threads = Cluster, threads or 1
        jobs = jobs or max(1, connect(cluster) // threads)
    plan = batch.Plan(
        launcher=launcher,
        timeout=timeout,
        jobs=jobs or 1,
        device=device,
        threads=threads,
        memory=memory,
        seed=seed,
        witnesses=witnesses,
        reports=reports,
    )
    batch.run(source, output, plan, batch.view(sys.stdout, sys.stderr))


@commands.command()
@click.argument("network", metavar="NET.onnx", callback=_existing)
@click.option("--images", required=True, metavar="FILE.npz", callback=_existing, help="Arrays images and labels.")
@click.option("--eps", "radii", type=float, required=True, multiple=True, help="Radius; may be repeated.")
@click.option("--norm", type=click.Choice(["inf", "2", "1"]), default="inf", show_default=True)
@click.option("--within", type=float, nargs=2, metavar="LOW HIGH", help="What elements of inputs can be, such as 0 1.")
@click.option("--count", type=click.IntRange(min=1), help="Only so many images, from the first.")
@click.option(
    "-o", "--output", required=True, metavar="results.csv", help="Appended to; rows in it are not run again."
)
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds per image and radius.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Images at a time.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of an image; default: cores / jobs.")
@click.option("--memory", type=float, metavar="GB", help="Memory an image may use.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--witnesses", metavar="DIR", help="Write the input of every image that is not robust into DIR.")
@click.option("--reports", metavar="DIR", help="Write the JSON report of every image into DIR.")
def robust(
    network: str, images: str, radii: tuple[float, ...], norm: str, within: tuple[float, float] | None,
    count: int | None, output: str, timeout: float, **given: Any,
) -> None:  # fmt: skip
    """Certified accuracy: for how many images every input around them is classified as their label says.

    The last lines of standard output tell it for every radius. results.csv is that of bench: unsat is robust, sat is
    not (a misclassified image is not). With the norms 1 and 2 more is left open: bounds hold over the ball, but the
    search goes over the box around it. A second call goes on where the first one stopped.
    """
    _options(timeout=timeout, **{name: given[name] for name in ("threads", "memory", "seed")})
    from provenn.verifier import batch, robustness

    plan = batch.Plan(timeout=timeout, **given)
    view = batch.view(sys.stdout, sys.stderr)
    rows = robustness.run(network, images, radii, norm, within or None, count, output, plan, view)
    _print("\n".join(robustness.accuracy(rows)) + "\n")


@commands.command(epilog=EPILOG)
@click.argument("results", metavar="[NAME=]results.csv")
@click.option("--compare", multiple=True, metavar="[NAME=]other.csv", help="Another tool's results; may be repeated.")
@click.option("--reports", metavar="DIR", help="The JSON reports of bench --reports: reasons and courses.")
@click.option("--show", multiple=True, metavar="TEXT", help="Draw the course of instances with TEXT in their names.")
@click.option("-o", "--output", required=True, metavar="report.html", help="The page to write.")
def report(results: str, compare: tuple[str, ...], reports: str | None, show: tuple[str, ...], output: str) -> None:
    """Make a page about results: families, times, other tools, conflicts, slow and unsolved instances.

    The page is one HTML file that needs no network and no script. Results are the competition's six columns
    (category,onnx,vnnlib,prepare_time,verdict,run_time) or a CSV file whose header names its columns.
    """
    from provenn.verifier import pages, targets

    found = pages.sources((results, *compare))
    inputs = {f"the results of {name}": path for name, path in found.items()}
    if wrong := targets.clash({"-o": output}, inputs):
        raise click.UsageError(wrong)
    targets.check_target(output, "-o")
    summary = pages.write(found, reports, show, output)
    click.echo(f"{output}: {summary}", err=True)


def _print(text: str) -> None:
    """Standard output, whole and at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _complain(error: object) -> None:
    from provenn.verifier.report import one_line

    click.echo(f"provenn: {one_line(error)}", err=True)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command; every way it can end is an exit code, errors are one line on standard error."""
    from provenn.verifier import streams
    from provenn.verifier.report import FAILED, INTERRUPTED, REFUSED
    from provenn.verifier.watchdog import Terminated

    try:
        streams.open_standard_files()
        code = commands.main(arguments, prog_name="provenn", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except ProvennError as error:
        _complain(error)
        sys.exit(REFUSED)
    except click.ClickException as error:
        _complain(error.format_message())
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        sys.exit(INTERRUPTED)
    except Terminated as error:
        if error.number == signal.SIGINT:
            _complain("interrupted")
        sys.exit(128 + error.number)
    except BrokenPipeError:
        sys.exit(REFUSED)
    except OSError as error:
        _complain(f"{error.filename or 'standard output'}: {error.strerror or error}")
        sys.exit(REFUSED)
    except Exception as error:  # noqa: BLE001 (the command ends here; a traceback would not help its user)
        _complain(f"internal error, please report it: {type(error).__name__}: {error}")
        sys.exit(FAILED)
    finally:
        streams.drop_unwritten()


if __name__ == "__main__":
    main()
