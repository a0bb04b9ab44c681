"""The table of a campaign's results."""

import collections
import json

COLUMNS = ("trials", "hit", "count", "outcome", "worst time to exit")
TITLES = {
    "kill1": "SIGKILL, one process",
    "kill2": "SIGKILL, two processes",
    "stop1": "SIGTERM or Ctrl-C, one process",
    "stop2": "SIGTERM or Ctrl-C, two processes",
    "disk": "full disk",
    "damage": "damaged file",
}


def table(folder):
    """Returns the results in OUT/KIND.jsonl as a Markdown table: one row per kind and moment or file hit."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for kind, title in TITLES.items():
        path = folder / f"{kind}.jsonl"
        groups = collections.defaultdict(list)
        for line in path.read_text().splitlines() if path.exists() else ():
            for hit, outcome, seconds in _events(kind, json.loads(line)):
                groups[hit].append((outcome, seconds))
        for hit, events in sorted(groups.items()):
            outcomes = collections.Counter(outcome for outcome, _ in events)
            seconds = [seconds for _, seconds in events if seconds is not None]
            worst = f"{max(seconds):.1f} s" if seconds else ""
            text = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
            rows.append((title, hit, str(len(events)), text, worst))
        if groups:
            events = [event for each in groups.values() for event in each]
            good = sum(outcome != "FAILED" for outcome, _ in events)
            rows.append((f"**{title}**", "all", str(len(events)), f"{good} of {len(events)} without a fault", ""))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _events(kind, record):
    """What was hit, how it came out, and the seconds to exit, for each kill or other event of a trial."""
    failed = "FAILED" if record["faults"] else None
    if kind.startswith("kill"):
        for kill in record["kills"]:
            by_itself = len(kill["codes"]) > len(kill["victims"])
            killed = by_itself and kill["seconds"] is None
            outcome = failed or ("bit-equal, the other process had to be killed" if killed else "bit-equal")
            yield kill["hit"], outcome, kill["seconds"] if by_itself else None
    elif kind.startswith("stop"):
        codes = "/".join(str(code) for code in sorted({*record["codes"]}))
        outcome = "FAILED" if record["faults"] else f"bit-equal (exit {codes})"
        yield record["hit"], outcome, record["seconds"]
    elif kind == "disk":
        outcome = "clear error, then bit-equal" if record["codes"] != [0] else "bit-equal, nothing failed"
        yield ("full at a moment" if record["fills"] else "too small"), failed or outcome, record["seconds"]
    else:
        unread = {"clear error": "clear error, then bit-equal", "not read": "bit-equal, not read"}
        yield f"{record['file']}, {record['mode']}", failed or unread.get(record["outcome"], "bit-equal"), None
