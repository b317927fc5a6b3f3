"""The commands and what their exit codes mean.

0: done. 1: the thing itself failed (damage found, events missing, batches unsettled).
2: wrong usage or configuration. 130: interrupted. Modules that read or write anything are
imported inside the commands, so that help and the reading commands start at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from typer.core import TyperGroup

from cdp_ray_sinks.cli.output import say_error

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

Json = Annotated[bool, typer.Option("--json", help="Only JSON on stdout; see the README.")]
Shape = Literal["tell", "small", "single"]
ScenarioName = Literal["kills", "outage", "disk"]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help="Not before: ISO 8601, a date, or Unix ms."),
]
To = Annotated[
    str | None, typer.Option("--to", "--until", metavar="TIME", help="Not after; inclusive.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Not after; inclusive.")]
TimeOf = Annotated[
    str, typer.Option("--time", metavar="received|event", help="Which time --from, --to mean.")
]
Workspaces = Annotated[
    list[int] | None, typer.Option("--workspace", min=1, help="Only this one; repeatable.")
]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="event, log, track, identify, …; repeatable."),
]
ArchivePath = Annotated[Path, typer.Argument(help="An archive's folder, or one .bin file.")]


class CommandGroup(TyperGroup):
    """Turns errors that are expected into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        from cdp_ray_sinks.errors import CdpError, ConfigError

        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except ConfigError as error:
            say_error(str(error))
            raise typer.Exit(EXIT_USAGE) from None
        except BrokenPipeError:
            # Whoever read stdout has had enough, and flushing at exit must not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (CdpError, OSError) as error:
            say_error(str(error))
            raise typer.Exit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        return result


app = typer.Typer(
    name="cdp-sinks",
    cls=CommandGroup,
    help="Takes streams of customer events to their destinations, as Ray actors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The pipeline's TOML file.")],
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to use instead of the file's.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(min=0, help="Drain and leave after this many seconds.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(help="What relative paths in the file are relative to.")
    ] = None,
    drain_deadline: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds that leaving may take.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a pipeline until its sources end, or until Ctrl-C; then drain."""
    from cdp_ray_sinks.cli.run import run_pipeline

    raise typer.Exit(run_pipeline(config, address, duration, json, directory, drain_deadline))


@app.command()
def validate(
    config: Annotated[Path, typer.Argument(help="The pipeline's TOML file.")], json: Json = False
) -> None:
    """Check a pipeline's TOML file and say what is wrong or probably not meant."""
    from cdp_ray_sinks.cli.validate import validate_config

    raise typer.Exit(validate_config(config, json))


@app.command()
def cat(
    paths: Annotated[list[Path], typer.Argument(help="Archive folders or .bin files.")],
    limit: Annotated[int | None, typer.Option(min=0, help="Stop after this many events.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print events as they land, until Ctrl-C.")
    ] = False,
    start: From = None,
    end: To = None,
    time: TimeOf = "received",
    workspace: Workspaces = None,
    kind: Kinds = None,
    json: Json = False,
) -> None:
    """Print the events of archives, one line each."""
    from cdp_ray_sinks.cli.cat import cat_archives
    from cdp_ray_sinks.cli.selecting import make_selection

    selection = make_selection(start, end, time, workspace or [], kind or [])
    raise typer.Exit(cat_archives(paths, limit, json, selection, follow))


@app.command()
def scan(
    path: ArchivePath,
    check_synthetic: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Look for the running numbers 0 to N-1."),
    ] = None,
    start: From = None,
    end: To = None,
    time: TimeOf = "received",
    workspace: Workspaces = None,
    kind: Kinds = None,
    json: Json = False,
) -> None:
    """Count what an archive holds, from the decoded messages alone."""
    from cdp_ray_sinks.cli.scan import scan_archive
    from cdp_ray_sinks.cli.selecting import make_selection

    selection = make_selection(start, end, time, workspace or [], kind or [])
    raise typer.Exit(scan_archive(path, check_synthetic, json, selection))


@app.command()
def query(
    place: Annotated[
        str,
        typer.Argument(help="A folder of Parquet files or one of them; or chdb://FOLDER, http://…"),
    ],
    sql: Annotated[str, typer.Argument(help="SQL over events, logs, snapshots, metrics, traces.")],
    limit: Annotated[int, typer.Option(min=0, help="End a table after so many rows.")] = 1000,
    json: Json = False,
) -> None:
    """Ask Parquet files or ClickHouse in SQL; see the README for the tables."""
    if place.startswith(("chdb://", "http://", "https://")):
        from cdp_ray_sinks.cli.query_clickhouse import query_clickhouse

        raise typer.Exit(query_clickhouse(place, sql, limit, json))
    from cdp_ray_sinks.cli.query import query_files

    raise typer.Exit(query_files(Path(place), sql, limit, json))


@app.command()
def verify(path: ArchivePath, json: Json = False) -> None:
    """Prove an archive against its commit indexes; name each damaged place."""
    from cdp_ray_sinks.cli.verify import verify_archive

    raise typer.Exit(verify_archive(path, json))


dead_letters = typer.Typer(no_args_is_help=True, help="What sinks refused for good.")
app.add_typer(dead_letters, name="deadletters")
PipelineFile = Annotated[Path, typer.Argument(help="The pipeline's TOML file.")]
OneSink = Annotated[str | None, typer.Option("--sink", help="Only this sink's.")]


@dead_letters.command("list")
def dead_letters_list(config: PipelineFile, sink: OneSink = None, json: Json = False) -> None:
    """Count them by sink and reason."""
    from cdp_ray_sinks.cli.deadletters import list_dead_letters

    raise typer.Exit(list_dead_letters(config, sink, json))


@dead_letters.command("show")
def dead_letters_show(
    config: PipelineFile,
    sink: OneSink = None,
    limit: Annotated[int | None, typer.Option(min=0, help="Stop after this many events.")] = None,
    json: Json = False,
) -> None:
    """Print the refused events."""
    from cdp_ray_sinks.cli.deadletters import show_dead_letters

    raise typer.Exit(show_dead_letters(config, sink, limit, json))


@dead_letters.command("replay")
def dead_letters_replay(config: PipelineFile, sink: OneSink = None, json: Json = False) -> None:
    """Send them to their sinks again, once what was wrong is mended."""
    from cdp_ray_sinks.cli.deadletters import replay_dead_letters

    raise typer.Exit(replay_dead_letters(config, sink, json))


@app.command()
def audit(config: PipelineFile, json: Json = False) -> None:
    """Compare what was accepted with what the destinations hold; 1 where they differ."""
    from cdp_ray_sinks.cli.audit import audit_pipeline

    raise typer.Exit(audit_pipeline(config, json))


PipelineName = Annotated[str, typer.Option(help="The pipeline's name.")]
ClusterAddress = Annotated[
    str | None, typer.Option(help="The Ray cluster it runs on: HOST:PORT, ray://HOST:10001.")
]
RayNamespace = Annotated[str, typer.Option(help="The file's ray.namespace.")]


@app.command()
def status(
    name: PipelineName = "default",
    address: ClusterAddress = None,
    namespace: RayNamespace = "cdp_ray_sinks",
    json: Json = False,
) -> None:
    """Say how a running pipeline is doing, and which processes it has."""
    from cdp_ray_sinks.cli.status import show_status

    raise typer.Exit(show_status(name, address, namespace, json))


@app.command()
def top(
    name: PipelineName = "default",
    address: ClusterAddress = None,
    namespace: RayNamespace = "cdp_ray_sinks",
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Two looks, then leave.")] = False,
    json: Json = False,
) -> None:
    """Watch a running pipeline: rates, queues, lags and latencies, until Ctrl-C."""
    from cdp_ray_sinks.cli.top import show_top

    raise typer.Exit(show_top(name, address, namespace, interval, once, json))


@app.command()
def send(
    paths: Annotated[list[Path], typer.Argument(help="Archives, .bin files, files of frames.")],
    to: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="A tcp source; http://HOST:PORT for an http one."),
    ],
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Put into each message: '${NAME}', '${file:PATH}', or 32 hex digits, which "
            "others on this machine can see.",
        ),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="At most 10MB, or 50000ev, a second.")
    ] = None,
    start: From = None,
    end: Until = None,
    time: TimeOf = "received",
    workspace: Workspaces = None,
    kind: Kinds = None,
    ack: Annotated[bool, typer.Option(help="Send units until all are settled there.")] = False,
    tls: Annotated[bool, typer.Option(help="TLS, the receiver verified.")] = False,
    ca_cert: Annotated[Path | None, typer.Option(help="By this authority.")] = None,
    client_cert: Annotated[Path | None, typer.Option(help="Certificate and key to show.")] = None,
    json: Json = False,
) -> None:
    """Play archives, or files of raw frames, to a tcp or http source."""
    from cdp_ray_sinks.cli.selecting import make_selection
    from cdp_ray_sinks.cli.send import send_paths
    from cdp_ray_sinks.sinks.forwarder_peer import TlsOptions

    selection = make_selection(start, end, time, workspace or [], kind or [])
    options = TlsOptions(True, ca_cert, client_cert) if tls or ca_cert or client_cert else None
    raise typer.Exit(send_paths(paths, to, rate, api_key, json, selection, options, ack))


@app.command()
def replay(
    path: ArchivePath,
    into: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A TOML file, to whose sinks it goes.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Or a pipeline that runs.")] = None,
    address: Annotated[str | None, typer.Option(help="The Ray cluster to use.")] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="At most 10MB, or 50000ev, a second.")
    ] = None,
    start: From = None,
    end: Until = None,
    time: TimeOf = "received",
    workspace: Workspaces = None,
    kind: Kinds = None,
    json: Json = False,
) -> None:
    """Send an archive to sinks again, over the cluster; a second run adds nothing twice."""
    from cdp_ray_sinks.cli.replay import replay_archive
    from cdp_ray_sinks.cli.selecting import make_selection

    selection = make_selection(start, end, time, workspace or [], kind or [])
    raise typer.Exit(replay_archive(path, into, name, address, rate, selection, json))


@app.command()
def ddl(
    profile: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Change the tables; repeatable.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="NAME", help="Create it, and qualify all names with it.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the profiles instead.")] = False,
    json: Json = False,
) -> None:
    """Print the SQL that makes ClickHouse's tables."""
    from cdp_ray_sinks.cli.ddl import list_profiles, print_ddl

    raise typer.Exit(list_profiles(json) if list_ else print_ddl(profile or [], database, json))


@app.command()
def bench(
    sinks: Annotated[list[str] | None, typer.Argument(help="What to measure; all without.")] = None,
    shape: Annotated[
        Shape, typer.Option(help="Events per message: tell 500, small 10, single 1.")
    ] = "tell",
    events: Annotated[int, typer.Option(min=1000, help="Events per repetition.")] = 2_000_000,
    repeat: Annotated[int, typer.Option(min=1, help="Repetitions, of which the median.")] = 5,
    directory: Annotated[
        Path | None, typer.Option(help="Where files are written; here without.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The rows as JSON; - is stdout.")
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Measure other writers of the format too.")
    ] = False,
) -> None:
    """Measure sinks against what the machine allows."""
    from cdp_ray_sinks.cli.bench import run_benchmarks

    raise typer.Exit(run_benchmarks(sinks or [], shape, events, repeat, directory, json, peers))


@app.command()
def chaos(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long faults come.")] = 3.0,
    seed: Annotated[int, typer.Option(min=0, help="Which faults come, and when.")] = 1,
    scenario: Annotated[
        ScenarioName | None, typer.Option(help="Only such faults; all without.")
    ] = None,
    rate: Annotated[float, typer.Option(min=100, help="Events per second.")] = 30_000,
    directory: Annotated[
        Path | None, typer.Option(help="Where everything goes, and stays; here without.")
    ] = None,
    json: Json = False,
) -> None:
    """Run a pipeline of its own, break what can break, and read everything back."""
    from cdp_ray_sinks.cli.chaos import chaos as run_chaos

    raise typer.Exit(run_chaos(minutes, seed, scenario, rate, directory, json))


def main() -> None:
    """The `cdp-sinks` command."""
    app(prog_name="cdp-sinks")
