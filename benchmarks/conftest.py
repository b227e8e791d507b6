"""Benchmarks run when asked for by path; their figures are printed as a table."""

from __future__ import annotations

import pytest

from earmark.bench.report import markdown_table

_HEADER = ["op", "kernel", "median us", "min us", "GMAC/s", "of peak, %", "GB/s"]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """The project's options skip benchmarks, for `make test`."""
    config.option.benchmark_skip = False


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what the benchmarks stored in ``extra_info``."""
    rows = []
    for benchmark in config._benchmarksession.benchmarks:
        info = benchmark["extra_info"]
        computes = info["gmac_per_s"] > 0
        rows.append(
            [
                benchmark["param"],
                info["kernel"],
                f"{1e6 * benchmark.stats.median:.1f}",
                f"{1e6 * benchmark.stats.min:.1f}",
                f"{info['gmac_per_s']:.1f}" if computes else "",
                f"{100 * info['share_of_peak']:.1f}" if computes else "",
                f"{info['gb_per_s']:.2f}",
            ]
        )
    if rows:
        terminalreporter.write_line("")
        terminalreporter.write_line(markdown_table(_HEADER, rows))
