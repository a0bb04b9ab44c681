"""A small file of published results: three methods on NYUv2, and one of which little is known."""

from helpers import stored_runs

PERCENT = ("semantic/miou", "semantic/pixel_accuracy", "normal/within_11.25", "normal/within_22.5", "normal/within_30")
LOWER = ("depth/abs_error", "depth/rel_error", "normal/mean", "normal/median")


def printed(values):
    return {name: round(value * (100 if name in PERCENT else 1), 4) for name, value in values.items()}


def content():
    """Three rows as printed."""
    metrics = [
        {
            "name": name,
            "factor": 100 if name in PERCENT else 1,
            "decimals": 4 if name.startswith("depth") else 2,
            "better": "lower" if name in LOWER else "higher",
        }
        for name in stored_runs.NAMES
    ]
    rows = [
        {
            "method": "STL",
            "architecture": "SegNet",
            "values": printed(stored_runs.STL),
            "delta_m": None,
            "mean_rank": None,
        },
        {"method": "LS", "values": printed(stored_runs.LS), "delta_m": 5.59, "mean_rank": 8.89, "protocol": "no decay"},
        {"method": "Nash-MTL", "values": printed(stored_runs.NASH), "delta_m": None, "mean_rank": 2.0},
        {
            "method": "Partial",
            "values": {"semantic/miou": 40.0, "depth/abs_error": None},
            "delta_m": 1.0,
            "mean_rank": None,
        },
    ]
    common = {"architecture": "SegNet-MTAN", "source": {"paper": "x"}, "protocol": None, "replications": []}
    return {
        "dataset": "nyuv2",
        "title": "SegNet-MTAN on NYUv2",
        "protocol": "200 epochs, batch size 2.",
        "baseline": "STL",
        "metrics": metrics,
        "rows": [{**common, **row} for row in rows],
    }
