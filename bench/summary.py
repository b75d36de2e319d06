"""The runs condensed: medians, spread, ratios, and the targets judged."""

import statistics
from dataclasses import dataclass

from bench.measure import WORKLOADS
from bench.peers import PEERS


@dataclass(frozen=True)
class Row:
    """One peer under one workload: medians over the rounds, and the ratios within this run."""

    peer: str
    workload: str
    per_second: float
    per_second_min: float
    per_second_max: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    failures: int
    server_core_busy: float
    load_core_busy: float
    foreign_busy: float
    to_ceiling: float | None
    to_best_peer: float | None


@dataclass(frozen=True)
class Target:
    """One target, what was measured for it (None: not measured) and whether that meets it."""

    text: str
    measured: str | None
    met: bool


def rows(results: dict, workload: str) -> list[Row]:
    """Return one row for each peer that was measured under `workload`, the fastest first."""
    runs: dict[str, list[dict]] = {}
    for run in results["runs"]:
        if run["workload"] == workload:
            runs.setdefault(run["peer"], []).append(run)
    rates = {peer: _median(found, "per_second") for peer, found in runs.items()}
    ceiling = next((rates[name] for name in rates if PEERS[name].is_ceiling), None)
    rivals = [
        rates[name]
        for name in rates
        if not name.startswith("perdure") and not PEERS[name].is_ceiling
    ]
    best = max(rivals, default=None)
    made = [_row(peer, workload, found, ceiling, best) for peer, found in runs.items()]
    return sorted(made, key=lambda row: -row.per_second)


def _row(
    peer: str, workload: str, runs: list[dict], ceiling: float | None, best: float | None
) -> Row:
    rate = _median(runs, "per_second")
    return Row(
        peer=peer,
        workload=workload,
        per_second=rate,
        per_second_min=min(run["per_second"] for run in runs),
        per_second_max=max(run["per_second"] for run in runs),
        **{name: _median(runs, name) for name in ("p50_ms", "p90_ms", "p99_ms")},
        failures=sum(run["failures"] for run in runs),
        server_core_busy=_median(runs, "server_core_busy"),
        load_core_busy=_median(runs, "load_core_busy"),
        foreign_busy=_median(runs, "foreign_busy"),
        to_ceiling=rate / ceiling if ceiling else None,
        to_best_peer=rate / best if best and not PEERS[peer].is_ceiling else None,
    )


def _median(runs: list[dict], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def targets(results: dict) -> list[Target]:
    """Return the targets Perdure set itself, judged by this run."""
    judged = []
    for workload in WORKLOADS:
        row = next((row for row in rows(results, workload.name) if row.peer == "perdure"), None)
        ceiling, best = (row.to_ceiling, row.to_best_peer) if row else (None, None)
        where = f"durable additions, {workload.title}"
        judged.append(_at_least(f"{where}: at least 0.45 × nginx", ceiling, 0.45))
        judged.append(_at_least(f"{where}: at least 10 × the best peer", best, 10))
    figures = results["figures"]
    stored, awake = figures.get("stored", 0), figures.get("awake", 0)
    one_caller_ms = figures.get("one_caller_p50_ms")
    beside = None
    if "awake_actor_bytes" in figures:
        heaviest = max(figures["awake_actor_bytes"], figures["written_actor_bytes"])
        beside = heaviest - figures["state_bytes"]
    memory = figures.get("resident_all_written_bytes")
    store = f"{stored:,} stored and {awake:,} awake actors" if stored else "a large store"
    return [
        *judged,
        _below("durable addition, one caller, p50: under 1 ms", one_caller_ms, 1, "ms"),
        _below(f"{store}: under 600 MB resident", memory and memory / 1e6, 600, "MB"),
        _below("an awake actor, beside its state: under 2 KB", beside, 2_048, "bytes"),
        _below("`import perdure`: under 150 ms", figures.get("import_perdure_ms"), 150, "ms"),
        _below("ready to answer: under 1 s", figures.get("first_answer_s"), 1, "s"),
    ]  # fmt: skip


def _at_least(text: str, measured: float | None, bound: float) -> Target:
    return Target(text, None if measured is None else f"{measured:.2f} ×", (measured or 0) >= bound)


def _below(text: str, measured: float | None, bound: float, unit: str) -> Target:
    if measured is None:
        return Target(text, None, met=False)
    digits = 0 if measured >= 100 else 2
    return Target(text, f"{measured:,.{digits}f} {unit}", measured < bound)
