"""Turns peers.json and the JSON of `sidework bench` into the README's table and the chart of docs/benchmarks.md.

    sidework bench --json > benchmarks/bench.json
    python benchmarks/peers.py
    python benchmarks/postgres.py
    python benchmarks/peers.py --postgres
    python benchmarks/table.py

The README keeps what stands outside the two markers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PAGE = HERE.parent / "docs" / "benchmarks.md"
CHART = HERE.parent / "docs" / "benchmarks.svg"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
ON_POSTGRES = "<!-- figures on PostgreSQL: begin -->", "<!-- figures on PostgreSQL: end -->"
ACKNOWLEDGED = 0.5
"""From so many syncs an enqueue on, an acknowledged job survives a power cut."""
Peer = Mapping[str, Any]


def main() -> None:
    """Rewrite the parts between the markers, and the chart."""
    bench = json.loads((HERE / "bench.json").read_text(encoding="utf-8"))
    peers = json.loads((HERE / "peers.json").read_text(encoding="utf-8"))
    place(README, readme_table(bench, peers["peers"]))
    place(PAGE, "\n\n".join((bench_table(bench), peers_table(peers), "![Jobs a second, drained](benchmarks.svg)")))
    CHART.write_text(chart(peers["peers"]), encoding="utf-8")
    bench = json.loads((HERE / "postgres.json").read_text(encoding="utf-8"))
    peers = json.loads((HERE / "peers-postgres.json").read_text(encoding="utf-8"))
    place(PAGE, "\n\n".join((postgres_table(bench), postgres_peers_table(peers))), ON_POSTGRES)


def place(path: Path, text: str, markers: tuple[str, str] = (BEGIN, END)) -> None:
    """Put a text between the markers of a document."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not begin or not end:
        sys.exit(f"{path} lacks the lines {markers[0]} and {markers[1]}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------ the README


def readme_table(bench: Mapping[str, Any], peers: Sequence[Peer]) -> str:
    """Return at most ten rows: our figure, what it is held against, the command."""
    figures = {(each["bench"], each["name"]): each for each in bench["figures"]}
    rows = [*own_rows(figures), *rows_beside_peers(peers)]
    return "\n".join(
        (
            f"Medians, on {words_of(bench['machine'])}. [How each is measured](docs/benchmarks.md).",
            "",
            "| | sidework | beside | command |",
            "|---|---|---|---|",
            *rows,
        )
    )


def own_rows(figures: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[str]:
    """Yield the rows whose measure is the database itself."""
    p50, p99, idle = (figures["pickup", name] for name in ("p50", "p99", "idle"))
    yield row(
        "pickup across processes, both commits included",
        f"p50 {amount(p50['value'])} ms, p99 {amount(p99['value'])} ms",
        f"idle: {amount(idle['value'])} % of a core",
        "sidework bench pickup",
    )
    for key, title in (
        (("effects", "jobs that write through db"), "jobs whose own write commits with them"),
        (("drain", "no-op jobs, one service"), "no-op jobs, one service"),
        (("enqueue", "one by one"), "enqueue, one by one"),
    ):
        figure = figures[key]
        yield row(
            title,
            f"{amount(figure['value'])}/s",
            f"{amount(100 * figure['ratio'])} % of plain `sqlite3` ({figure['against']})",
            f"sidework bench {key[0]}",
        )


def rows_beside_peers(peers: Sequence[Peer]) -> Iterator[str]:
    """Yield the rows whose measure is the best of the others that keep the same promise, and one that we lose."""
    ours, *others = peers
    durable = [peer for peer in others if (peer["syncs_per_enqueue"] or 0) >= ACKNOWLEDGED]
    command = "python benchmarks/peers.py"
    for name, title in (
        ("drain", "no-op jobs, beside the best durable peer"),
        ("enqueue", "enqueue one by one, beside the best durable peer"),
    ):
        best = max(durable, key=lambda peer: middle(peer[name]))
        mine, its = middle(ours[name]), middle(best[name])
        yield row(verdict(title, won=mine >= its), f"{amount(mine)}/s", f"{best['name']} {amount(its)}/s", command)
    best = min(others, key=lambda peer: middle(peer["pickup_p50"]))
    yield row(
        verdict(
            "pickup, beside the best peer at its fastest polling",
            won=middle(ours["pickup_p50"]) <= middle(best["pickup_p50"]),
        ),
        f"{amount(middle(ours['pickup_p50']))} ms",
        f"{best['name']} {amount(middle(best['pickup_p50']))} ms, idle at {amount(middle(best['idle']))} % of a core",
        command,
    )
    yield row(
        verdict("a job again after `kill -9`", won=is_first_again(ours, others)),
        seconds(ours["after_kill"]),
        ", ".join(f"{peer['name']} {seconds(peer['after_kill'])}" for peer in others),
        command,
    )


def is_first_again(ours: Peer, others: Sequence[Peer]) -> bool:
    """Whether no peer runs a job again sooner after its worker was killed."""
    soonest = min((peer["after_kill"] for peer in others if peer["after_kill"] is not None), default=None)
    return ours["after_kill"] is not None and (soonest is None or ours["after_kill"] <= soonest)


def verdict(title: str, *, won: bool) -> str:
    """Return the title of a row, which says so where a peer is better."""
    return title if won else f"**lost**: {title}"


# -------------------------------------------------------------------------------------------------------- the page


def bench_table(bench: Mapping[str, Any]) -> str:
    """Return every figure beside its goal."""
    return figures_table(bench, f"`sidework bench` on {words_of(bench['machine'])}:")


def figures_table(bench: Mapping[str, Any], title: str) -> str:
    """Return every figure beside its goal, below a title."""
    lines = [
        title,
        "",
        "| | median (min - max) | raw | ratio | goal | met |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for each in bench["figures"]:
        raw = "-" if each["raw"] is None else f"{amount(each['raw'])} ({each['against']})"
        ratio = "-" if each["ratio"] is None else amount(each["ratio"])
        met = {None: "-", True: "yes", False: "**no**"}[each["met"]]
        span = f"{amount(each['value'])} {each['unit']} ({amount(each['low'])} - {amount(each['high'])})"
        lines.append(f"| {each['bench']}: {each['name']} | {span} | {raw} | {ratio} | {goal_of(each)} | {met} |")
    return "\n".join(lines)


def goal_of(figure: Mapping[str, Any]) -> str:
    """Return a goal in words."""
    goal = figure["goal"]
    if goal is None:
        return "-"
    sign, bound = ("≥", goal["at_least"]) if goal["at_least"] is not None else ("≤", goal["at_most"])
    return f"{sign} {bound:g} {'of raw' if goal['of'] == 'ratio' else figure['unit']}"


def peers_table(report: Mapping[str, Any]) -> str:
    """Return what was measured of each peer."""
    titles = (
        "", "settings", "syncs an enqueue / a job", "enqueue/s", "bulk/s", "drain/s", "pickup p50 / p99", "idle",
        "after kill -9",
    )  # fmt: skip
    lines = [
        f"`python benchmarks/peers.py`, load {report['machine']['load']:.1f}:",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    for peer in report["peers"]:
        syncs = f"{amount(peer['syncs_per_enqueue'])} / {amount(peer['syncs_per_job'])}"
        rates = " | ".join(amount(middle(peer[name])) if peer[name] else "-" for name in ("enqueue", "bulk", "drain"))
        pickup = f"{amount(middle(peer['pickup_p50']))} / {amount(middle(peer['pickup_p99']))} ms"
        lines.append(
            f"| {peer['name']} {peer['version']} | {peer['note']} | {syncs} | {rates} | {pickup} | "
            f"{amount(middle(peer['idle']))} % | {seconds(peer['after_kill'])} |"
        )
    return "\n".join(lines)


def postgres_table(bench: Mapping[str, Any]) -> str:
    """Return what was measured on PostgreSQL beside psycopg alone."""
    server = bench["server"]
    settings = ", ".join(f"{name}={server[name]}" for name in ("synchronous_commit", "fsync", "full_page_writes"))
    return figures_table(
        bench,
        f"`python benchmarks/postgres.py` on PostgreSQL {server['server_version']} ({settings}), "
        f"load {bench['machine']['load']:.1f}:",
    )


def postgres_peers_table(report: Mapping[str, Any]) -> str:
    """Return what was measured of each peer on PostgreSQL, and what we promised beside them."""
    titles = ("", "settings", "enqueue/s", "bulk/s", "drain/s", "pickup p50 / p99", "idle", "after kill -9")
    lines = [
        f"`python benchmarks/peers.py --postgres`, load {report['machine']['load']:.1f}:",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    for peer in report["peers"]:
        rates = " | ".join(amount(middle(peer[name])) if peer[name] else "-" for name in ("enqueue", "bulk", "drain"))
        pickup = f"{amount(middle(peer['pickup_p50']))} / {amount(middle(peer['pickup_p99']))} ms"
        lines.append(
            f"| {peer['name']} {peer['version']} | {peer['note']} | {rates} | {pickup} | "
            f"{amount(middle(peer['idle']))} % | {seconds(peer['after_kill'])} |"
        )
    return "\n".join([*lines, "", *goals_beside_peers(report["peers"])])


def goals_beside_peers(peers: Sequence[Peer]) -> Iterator[str]:
    """Yield a line for each goal that we have beside others: won, or lost."""
    ours, *others = peers
    mine, rates = middle(ours["drain"]), {peer["name"]: middle(peer["drain"]) for peer in others if peer["drain"]}
    best = max(rates, key=lambda name: rates[name])
    for name, goal in ((best, 1.5), ("procrastinate", 5), ("oban", 5)):
        if rates.get(name):
            times = mine / rates[name]
            yield f"* {verdict(f'drain beside {name}', won=times >= goal)}: {times:.2g} times, wanted {goal:g}"
    waits = {peer["name"]: middle(peer["pickup_p50"]) for peer in peers}
    first = min((name for name in waits if name != ours["name"]), key=lambda name: waits[name])
    title = verdict(f"pickup beside {first}", won=waits[ours["name"]] <= waits[first])
    yield f"* {title}: p50 {amount(waits[ours['name']])} ms, its {amount(waits[first])} ms"


# ------------------------------------------------------------------------------------------------------- the chart


def chart(peers: Sequence[Peer]) -> str:
    """Return an SVG with a bar for each peer: jobs a second, drained."""
    bars = sorted(((middle(peer["drain"]), peer) for peer in peers if peer["drain"]), key=lambda bar: -bar[0])
    most, height = bars[0][0], 34 * len(bars) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" font-family="sans-serif">',
        "<style>text { font-size: 13px }</style>",
        f'<rect width="760" height="{height}" fill="white"/>',
        '<text x="10" y="20" font-weight="bold">No-op jobs a second, one worker, SQLite</text>',
    ]
    for place_of, (rate, peer) in enumerate(bars):
        top = 34 * place_of + 34
        durable = (peer["syncs_per_enqueue"] or 0) >= ACKNOWLEDGED
        colour = "#2b6cb0" if peer["name"] == "sidework" else "#718096" if durable else "#cbd5e0"
        label = f"{amount(rate)}{'' if durable else '  (not synced)'}"
        width = max(520 * rate / most, 1)
        lines += [
            f'<text x="130" y="{top + 17}" text-anchor="end">{escape(peer["name"])}</text>',
            f'<rect x="140" y="{top}" width="{width:.0f}" height="24" fill="{colour}"/>',
            f'<text x="{146 + width:.0f}" y="{top + 17}">{label}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


# --------------------------------------------------------------------------------------------------------- words


def row(*cells: str) -> str:
    """Return a row of the README's table; the last cell is a command."""
    *words, command = cells
    return f"| {' | '.join(words)} | `{command}` |"


def words_of(machine: Mapping[str, Any]) -> str:
    """Return the machine in one line."""
    return (
        f"{machine['cpu']} with {machine['cores']} cores, {machine['file_system']}, "
        f"fsync p50 {machine['fsync_ms']:.2g} ms, Python {machine['python']}, SQLite {machine['sqlite']}, "
        f"load {machine['load']:.1f}"
    )


def middle(values: Sequence[float]) -> float:
    """Return the median; 0 of nothing."""
    return median(values) if values else 0.0


def amount(value: float | None) -> str:
    """Return a number with as many digits as mean something."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def seconds(value: float | None) -> str:
    """Return how long it took; None: it was not seen again while peers.py waited."""
    return "not in 20 s" if value is None else f"{value:.1f} s"


if __name__ == "__main__":
    main()
