"""`cdp-sinks verify`: every segment of an archive against its commit index, every table whole."""

from __future__ import annotations

from pathlib import Path

from cdp_ray_sinks.cli.archive_reading import TABLE_SUFFIX
from cdp_ray_sinks.cli.output import bytes_text, count_text, escaped, print_json
from cdp_ray_sinks.cli.progress import byte_bar
from cdp_ray_sinks.errors import ConfigError
from cdp_ray_sinks.files.archive import VerifyReport, verify
from cdp_ray_sinks.files.journal import JOURNAL_DIRECTORY


def verify_archive(path: Path, as_json: bool) -> int:
    """Print what holds and each place that does not; 1 if there is one."""
    try:
        with byte_bar("verifying", is_quiet=as_json) as advance:
            report = verify(path, advance)
            if may_hold_tables(path):
                from cdp_ray_sinks.writers.warehouse_check import verify_warehouse

                report += verify_warehouse(path, advance)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file or folder") from None
    if not report.segments and report.ok and not path.is_dir():
        raise ConfigError(f"{path}: not a segment, nor a folder with segments")
    if as_json:
        whole = report.to_dict()
        print_json({key: whole[key] for key in ("ok", "segments", "events", "damaged")})
    else:
        _print_report(path, report)
    return 0 if report.ok else 1


def may_hold_tables(path: Path) -> bool:
    """Whether there is a Parquet file, or a journal of one; looks at names alone."""
    if path.is_file():
        return path.name.endswith(TABLE_SUFFIX)
    return (path / JOURNAL_DIRECTORY).is_dir() or any(path.rglob(f"*{TABLE_SUFFIX}"))


def _print_report(path: Path, report: VerifyReport) -> None:
    for damage in report.damaged:
        print(escaped(f"damaged: {damage.path} at byte {damage.offset}: {damage.reason}"))
    if report.damaged_count > len(report.damaged):
        print(f"and {count_text(report.damaged_count - len(report.damaged))} more places")
    print(
        f"{escaped(str(path))}: {'ok' if report.ok else 'DAMAGED'}, "
        f"{count_text(report.segments)} segments, {count_text(report.messages)} messages, "
        f"{count_text(report.events)} events, {bytes_text(report.held_bytes)}"
    )
    if report.uncommitted_bytes:
        print(f"{bytes_text(report.uncommitted_bytes)} behind the last commit of open segments")
