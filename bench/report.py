"""The report: a table on the terminal, and RESULTS.md for whoever wants to know all of it."""

import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.measure import CONNECTIONS, WORKLOADS
from bench.peers import PEERS
from bench.quiet import ATTEMPTS_MAX, FOREIGN_SHARE_MAX, WAIT_S_MAX
from bench.summary import Row, rows, targets

HEADINGS = (
    "peer", "additions/s", "spread", "× nginx", "× best peer", "p50 ms", "p90 ms", "p99 ms",
    "failures", "server core", "load core", "others",
)  # fmt: skip

FIGURES = (
    ("one_caller_p50_ms", "durable addition, one connection, p50", "{:.3f} ms"),
    ("one_caller_p99_ms", "durable addition, one connection, p99", "{:.3f} ms"),
    ("one_caller_per_second", "durable additions, one connection", "{:,.0f}/s"),
    ("import_perdure_ms", "`import perdure`, beyond a bare Python", "{:.0f} ms"),
    ("import_app_ms", "`from perdure import App`, beyond a bare Python", "{:.0f} ms"),
    ("first_answer_s", "process start to first durable 200, empty store", "{:.2f} s"),
    ("first_answer_large_s", "process start to first durable 200, large store", "{:.2f} s"),
    ("stored", "actors in the large store", "{:,}"),
    ("awake", "of them woken", "{:,}"),
    ("resident_all_awake_bytes", "resident memory with all of these awake", "{:,} bytes"),
    ("resident_all_written_bytes", "the same, after an addition to each", "{:,} bytes"),
    ("state_bytes", "state of one actor, as JSON", "{:,} bytes"),
    ("awake_actor_bytes", "memory of an awake actor with its state (slope)", "{:,.0f} bytes"),
    ("written_actor_bytes", "the same, after an addition to each", "{:,.0f} bytes"),
    ("waking_p50_ms", "first view of a sleeping actor, one connection, p50", "{:.3f} ms"),
    ("waking_p99_ms", "first view of a sleeping actor, one connection, p99", "{:.3f} ms"),
    ("awake_view_p50_ms", "view of an awake actor, one connection, p50", "{:.3f} ms"),
    ("awake_view_p99_ms", "view of an awake actor, one connection, p99", "{:.3f} ms"),
)  # fmt: skip

FILLED = """

The large store was filled through the store's own commit, so its file is in the page cache: waking
pays for a read of SQLite, not of the disk."""

NOT_QUIET = """

**The machine was not quiet**: others took {share:.0%} of the two cores (median over the runs), and
of the disk. That costs servers which wait for an fsync far more than nginx, which never does; run
it again on an idle machine before believing a target met or missed."""


def cells(row: Row) -> list[str]:
    """Return the row as text, in the order of HEADINGS."""
    return [
        PEERS[row.peer].title,
        f"{row.per_second:,.0f}",
        f"{row.per_second_min:,.0f}–{row.per_second_max:,.0f}",
        f"{row.to_ceiling:.3f}" if row.to_ceiling else "–",
        f"{row.to_best_peer:.2f}" if row.to_best_peer else "–",
        f"{row.p50_ms:.2f}",
        f"{row.p90_ms:.2f}",
        f"{row.p99_ms:.2f}",
        f"{row.failures:,}",
        f"{row.server_core_busy:.0%}",
        f"{row.load_core_busy:.0%}",
        f"{row.foreign_busy:.0%}",
    ]


def show(results: dict, console: Console) -> None:
    """Print the tables and the targets."""
    for workload in WORKLOADS:
        table = Table(title=f"{workload.title}, {CONNECTIONS} connections")
        for index, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="right" if index else "left", no_wrap=True)
        for row in rows(results, workload.name):
            table.add_row(*cells(row), style="bold" if row.peer == "perdure" else None)
        console.print(table)
    for name, reason in results["missing"].items():
        console.print(f"[yellow]missing: {name}: {reason}")
    for kind in ("wrong", "failed"):
        for text in results[kind]:
            console.print(f"[red]{kind}: {text}")
    for target in targets(results):
        console.print(f"{_verdict(target):12}  {target.text}: {target.measured or '–'}")


def write(results: dict, path: Path) -> None:
    """Write RESULTS.md."""
    parts = [_head(results), _targets(results)]
    parts += [_workload(results, workload) for workload in WORKLOADS]
    parts += [_figures(results), _how(results), _peers(results), _machine(results)]
    path.write_text("\n\n".join(part for part in parts if part) + "\n")


def _head(results: dict) -> str:
    machine, settings = results["machine"], results["settings"]
    text = (
        "# Results\n\n"
        f"Measured {machine['date']} by `{results['command']}`: {settings['rounds']} interleaved "
        f"round(s) of {settings['round_s']:g} s for each peer and workload, on one machine "
        f"({machine['cpu']}, core {machine['server_core']} for the server, core "
        f"{machine['load_core']} for the load). A shared machine wanders; the ratios within this "
        "run are what to compare."
    )
    disturbance = statistics.median([run["foreign_busy"] for run in results["runs"]] or [0.0])
    if disturbance > FOREIGN_SHARE_MAX:
        text += NOT_QUIET.format(share=disturbance)
    if results["wrong"]:
        found = "\n".join(f"- {wrong}" for wrong in results["wrong"])
        text += f"\n\n**Checks that failed: do not trust this run.**\n\n{found}"
    if results["failed"]:
        found = "\n".join(f"- {failed}" for failed in results["failed"])
        text += f"\n\nRuns of peers that failed, and are not in the medians:\n\n{found}"
    return text


def _targets(results: dict) -> str:
    lines = [[target.text, target.measured or "–", _verdict(target)] for target in targets(results)]
    return "## Targets\n\n" + _markdown(("target", "measured", ""), lines)


def _workload(results: dict, workload) -> str:
    found = [cells(row) for row in rows(results, workload.name)]
    title = f"## {workload.title[0].upper()}{workload.title[1:]}, {CONNECTIONS} connections\n\n"
    return title + _markdown(HEADINGS, found)


def _figures(results: dict) -> str:
    figures = results["figures"]
    lines = [
        [title, form.format(figures[name])] for name, title, form in FIGURES if name in figures
    ]
    lines += [[f"{name} failed", str(reason)] for name, reason in figures.get("failed", {}).items()]
    if not lines:
        return ""
    filled = "" if "stored" not in figures else FILLED
    title = "## Further figures of Perdure\n\n"
    return title + _markdown(("figure", "measured"), lines) + filled


def _how(results: dict) -> str:
    checked = [run for run in results["runs"] if "stored" in run]
    surplus = max((run["stored"] - run["acknowledged"] for run in checked), default=0)
    repeated = sum(run["attempts"] > 1 for run in results["runs"])
    return f"""## How it was measured

- One call: `POST` with `{{"sku": "tea", "qty": 1}}`; the answer is the cart's lines as JSON after
  the addition. A cart knows 1 to 5 SKUs, chosen at random, so answers stay short and alike.
- `wrk` with one thread and {CONNECTIONS} kept-alive connections, a closed loop: percentiles are
  those of a server kept as busy as it can be. An answer of 400 or more, a broken socket and a
  timeout are failures; a probe before each run demands exact answers.
- All processes of a peer (database, broker, Python) share the server core. "Server core" and "load
  core" say how busy each was; where the load core is near 100 %, the peer could do more than
  shown. "Others" is the share of the two cores spent on anything else (the kernel's writing to
  disk is in it): where it is high even for nginx, the machine was not quiet.
- Before each run the bench waits until the cores are idle, {WAIT_S_MAX:.0f} s at most. A run in
  which others took more than {FOREIGN_SHARE_MAX:.0%} is repeated, and the one of up to
  {ATTEMPTS_MAX} attempts that others disturbed least is kept. All of this lasts as long as the
  patience given ({results["settings"].get("patience_s", 0):.0f} s); {repeated} of \
{len(results["runs"])} runs were repeated.
- `--nice` in the command, when it is there, holds for every server and for the load alike.
- Each run starts on fresh data, is warmed up, and stops. Figures are medians over the rounds;
  spread is the slowest and the fastest round.
- After each run of a peer that stores, every cart is read back: all acknowledged additions must be
  there, and at most {CONNECTIONS} more, which were under way when the load stopped. {len(checked)}
  runs were checked so; the largest surplus was {surplus}.
- "Best peer" is the fastest in the table other than Perdure and the ceiling."""


def _peers(results: dict) -> str:
    lines = [
        [
            PEERS[name].title, PEERS[name].durability,
            ", ".join(f"{part} {version}" for part, version in versions.items()),
        ]
        for name, versions in results["versions"].items() if name not in results["missing"]
    ]  # fmt: skip
    lines += [[PEERS[name].title, "missing", reason] for name, reason in results["missing"].items()]
    return "## Peers\n\n" + _markdown(("peer", "durability of an answer", "versions"), lines)


def _machine(results: dict) -> str:
    lines = [[name.replace("_", " "), str(value)] for name, value in results["machine"].items()]
    return "## Machine\n\n" + _markdown(("", ""), lines)


def _verdict(target) -> str:
    if target.measured is None:
        return "not measured"
    return "met" if target.met else "MISSED"


def _markdown(headings: tuple[str, ...], lines: list[list[str]]) -> str:
    table = [headings, ["---"] * len(headings), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in table)
