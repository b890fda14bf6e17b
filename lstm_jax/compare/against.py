"""Two comparisons beside each other: what is faster or slower than it was."""

from collections.abc import Sequence

from lstm_jax.compare.findings import Finding, Standing
from lstm_jax.compare.results import Peak, Results, Speed
from lstm_jax.compare.statistics import Ratio, ratio
from lstm_jax.compare.tables import AXIS_TITLES, NOTHING, Table, ratio_in_digits, timed, with_spread

TITLE = "Against an earlier comparison"


def why_not_comparable(now: Results, before: Results) -> str | None:
    """Why times of two comparisons say nothing about each other; None if they may."""
    sizes = {**AXIS_TITLES, "inputs": "inputs", "threads": "threads"}
    differences = [
        f"{title} {getattr(before, field)} then, {getattr(now, field)} now"
        for field, title in sizes.items()
        if getattr(before, field) != getattr(now, field)
    ]
    steps = (before.steps_per_call, now.steps_per_call)
    if all(steps) and steps[0] != steps[1]:
        differences.append(
            f"{steps[0]} train steps in a timed call then, {steps[1]} now, so that what a call itself costs "
            "weighs more in one of them, as with `--quick`"
        )
    return f"not the same work: {'; '.join(differences)}" if differences else None


def against_table(now: Results, before: Results) -> Table:
    """The times of each framework then and now, and whether they differ."""
    if why := why_not_comparable(now, before):
        return Table(TITLE, (), (), (f"The comparison of {before.day} is {why}. Nothing is compared.",))
    header = (
        "framework",
        "train step then, ms (quartiles)",
        "now, ms (quartiles)",
        "then / now (95 % interval)",
        "training is",
        "inference, then / now (95 % interval)",
        "inference is",
    )
    old, new = timed(before), timed(now)
    rows = [_row(name, old[name], new[name]) for name in new if name in old]
    rows += _peak_row(now.peak, before.peak)
    return Table(TITLE, header, tuple(rows), _notes(now, before))


def against_finding(now: Results, before: Results) -> Finding:
    """The same in words."""
    if why := why_not_comparable(now, before):
        return Finding(TITLE, Standing.UNKNOWN, f"The comparison of {before.day} is {why}.")
    old, new = timed(before), timed(now)
    words: dict[str, list[str]] = {}
    for name in new:
        if name in old and new[name].train_seconds and old[name].train_seconds:
            found = _then_by_now(old[name].train_seconds, new[name].train_seconds)
            words.setdefault(in_words(found), []).append(name)
    told = " ".join(f"{word.capitalize()}: {', '.join(names)}." for word, names in words.items())
    text = f"Training, against the comparison of {before.day}. {told}" if told else "Nobody is in both."
    return Finding(TITLE, Standing.UNKNOWN, f"{text}{_machine_in_words(now.peak, before.peak)}")


def in_words(then_by_now: Ratio) -> str:
    """Whether something is faster than it was."""
    if not then_by_now.has_interval:
        return "too few rounds to say"
    if then_by_now.above_one:
        return "faster"
    return "slower" if then_by_now.below_one else "no difference"


def _then_by_now(before: Sequence[float], now: Sequence[float]) -> Ratio:
    return ratio(before, now, paired=False)


def _row(name: str, before: Speed, now: Speed) -> tuple[str, ...]:
    trains = (before.train_seconds, now.train_seconds)
    return (
        name,
        *_medians(*trains),
        *_compared(*trains),
        *_compared(before.infer_seconds, now.infer_seconds),
    )


def _medians(*runs: Sequence[float]) -> tuple[str, ...]:
    return tuple(with_spread(run, factor=1e3) if run else NOTHING for run in runs)


def _compared(before: Sequence[float], now: Sequence[float]) -> tuple[str, str]:
    if not before or not now:
        return (NOTHING, NOTHING)
    found = _then_by_now(before, now)
    return (ratio_in_digits(found), in_words(found))


def _peak_row(now: Peak | None, before: Peak | None) -> list[tuple[str, ...]]:
    """The machine itself, by its matrix product."""
    if now is None or before is None or now.flop != before.flop:
        return []
    runs = (before.seconds, now.seconds)
    return [("matrix product of the machine", *_medians(*runs), *_compared(*runs), NOTHING, NOTHING)]


def _machine_in_words(now: Peak | None, before: Peak | None) -> str:
    if now is None or before is None or now.flop != before.flop:
        return ""
    found = _then_by_now(before.seconds, now.seconds)
    word = in_words(found)
    if word not in ("faster", "slower"):
        return ""
    return f" The machine itself is {word}, by its matrix product: {ratio_in_digits(found)}."


def _notes(now: Results, before: Results) -> tuple[str, ...]:
    notes = [
        f"Then: {before.day}, `{before.command}`. Above 1 is faster now. By chance, one interval in twenty "
        "misses. They know the spread within each of the two runs, but not what changed on the machine "
        "between them: see its matrix product."
    ]
    cpus = [str(results.machine.get("cpu", "unknown")) for results in (before, now)]
    if cpus[0] != cpus[1]:
        notes.append(f"Another machine: {cpus[0]} then, {cpus[1]} now.")
    old, new = timed(before), timed(now)
    for title, some, others in (("Only then", old, new), ("Only now", new, old)):
        if names := [name for name in some if name not in others]:
            notes.append(f"{title}: {', '.join(names)}.")
    then, today = _versions(before), _versions(now)
    changed = [
        f"{name} {then[name]} to {today[name]}"
        for name in today
        if then.get(name, today[name]) != today[name]
    ]
    if changed:
        notes.append(f"Versions: {', '.join(changed)}.")
    return tuple(notes)


def _versions(results: Results) -> dict[str, str]:
    """Of all packages; each framework tells those behind it."""
    found = dict(results.versions)
    for one in results.frameworks.values():
        found.update(one.versions)
    return found
