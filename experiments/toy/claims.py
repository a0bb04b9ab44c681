"""Checks the claims of the two papers about this problem against results.json.

Each function takes the results and returns whether the claim holds, and the numbers behind the verdict.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

REACHED = 0.01  # largest distance from the front, in units of its extent
SAME = 0.02  # tolerance for shares
Verdict = tuple[bool, str]


def gd_is_stuck_twice(results: dict[str, Any]) -> Verdict:
    """Adam on the mean loss gets stuck in 2 of 5 runs, in the steep valleys."""
    runs = _runs(results, "cagrad", "equal")
    stuck = [run["distance"] > REACHED for run in runs]
    holds = stuck == [True, False, False, True, False]
    ends = [
        f"({run['point'][0]:.2f}, {run['point'][1]:.2f})" for run, is_stuck in zip(runs, stuck, strict=True) if is_stuck
    ]
    return holds, f"{len(ends)} of 5 are off the front, at {' and '.join(ends)}; the valleys are at x = -5 and 5"


def others_reach_the_front(results: dict[str, Any]) -> Verdict:
    """MGDA, PCGrad and CAGrad (c = 0.5) converge to the Pareto set from all starts."""
    largest = {name: max(_of(results, "cagrad", name, "distance")) for name in ("mgda", "pcgrad", "cagrad")}
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in largest.items())
    return max(largest.values()) < REACHED, f"largest distances: {numbers}"


def mgda_and_pcgrad_end_where_the_start_says(results: dict[str, Any]) -> Verdict:
    """MGDA and PCGrad converge to different Pareto-stationary points depending on the start."""
    shares = {name: _of(results, "cagrad", name, "share") for name in ("mgda", "pcgrad")}
    apart = min(np.diff(sorted(values)).min() for values in shares.values())
    return apart > SAME, f"shares: {_shares(shares)}; the nearest two are {apart:.3f} apart"


def mgda_and_pcgrad_stop_at_the_front(results: dict[str, Any]) -> Verdict:
    """MGDA and PCGrad stop as soon as they reach the Pareto set."""
    moved = {name: _moved(results, "cagrad", name) for name in ("mgda", "pcgrad", "cagrad")}
    holds = max(*moved["mgda"], *moved["pcgrad"]) < 2 * SAME
    return (
        holds,
        f"largest change of the share from arrival to end: {', '.join(f'{k} {max(v):.3f}' for k, v in moved.items())}",
    )


def cagrad_ends_at_the_minimum(results: dict[str, Any]) -> Verdict:
    """CAGrad (c = 0.5) ends at the minimum of the average loss from all starts."""
    shares = _of(results, "cagrad", "cagrad", "share")
    reached = max(_of(results, "cagrad", "cagrad", "distance")) < REACHED
    return reached and all(abs(share - 0.5) < SAME for share in shares), f"shares {_list(shares)}; the minimum is 0.5"


def c_leads_from_gd_to_mgda(results: dict[str, Any]) -> Verdict:
    """CAGrad with c = 0 recovers GD, with c = 10 it approximates MGDA well."""
    apart = {
        other: max(
            float(np.hypot(*np.subtract(a["point"], b["point"])))
            for a, b in zip(results["variants"][variant], _runs(results, "cagrad", other), strict=True)
        )
        for variant, other in (("cagrad c=0", "equal"), ("cagrad c=10", "mgda"))
    }
    ended, arrived = ([run[key] for run in results["variants"]["cagrad c=10"]] for key in ("share", "arrival"))
    numbers = (
        f"end points at most {apart['equal']:.3f} from equal, {apart['mgda']:.2f} from mgda "
        f"(shares with c = 10 on arrival {_list(arrived)}, at the end {_list(ended)})"
    )
    return apart["equal"] < 0.1 and apart["mgda"] < 0.5, numbers


def second_task_controls(results: dict[str, Any]) -> Verdict:
    """LS, PCGrad and CAGrad are controlled by the second task's gradient, mostly ending at the bottom right."""
    names = ("equal", "pcgrad", "cagrad")
    ended = [run["share"] for name in names for run in _runs(results, "nash", name) if run["distance"] < REACHED]
    low = sum(share < 0.3 for share in ended)
    shares = {name: _of(results, "nash", name, "share", reached=True) for name in names}
    return low > len(ended) / 2, f"of {len(ended)} runs on the front {low} have shares below 0.3: {_shares(shares)}"


def rightmost_start_fails(results: dict[str, Any]) -> Verdict:
    """LS, PCGrad and CAGrad fail to converge to an optimal solution from the rightmost starts."""
    distances = {name: _of(results, "nash", name, "distance") for name in ("equal", "pcgrad", "cagrad")}
    off = {name: [i for i, distance in enumerate(values) if distance > REACHED] for name, values in distances.items()}
    numbers = ", ".join(f"{name} {values[2]:.2f}" for name, values in distances.items())
    return all(starts == [2] for starts in off.values()), f"only from (9, 9), whose first loss is largest; {numbers}"


def mgda_leans_to_the_small_gradient(results: dict[str, Any]) -> Verdict:
    """MGDA is inclined towards the task with the smallest gradient, the first."""
    scaled = _of(results, "nash", "mgda", "share")
    plain = [run["share"] for run in results["variants"]["mgda unscaled"]]
    above = sum(share > 0.9 for share in scaled)
    more = all(a > b - SAME for a, b in zip(scaled, plain, strict=True))
    numbers = f"{above} of 5 shares above 0.9: {_list(scaled)}; with equal scales {_list(plain)}"
    return above >= 3 and more, numbers


def nash_mtl_reaches_the_front(results: dict[str, Any]) -> Verdict:
    """Nash-MTL ends on the front from all starts."""
    distances = _of(results, "nash", "nash_mtl", "distance")
    return max(distances) < REACHED, f"largest distance {max(distances):.4f}"


def nash_mtl_ignores_scale(results: dict[str, Any]) -> Verdict:
    """Nash-MTL is invariant to changes in loss scale."""
    apart = {
        name: [
            abs(a["share"] - b["share"])
            for a, b in zip(_runs(results, "nash", name), results["variants"][f"{name} unscaled"], strict=True)
        ]
        for name in ("nash_mtl", "equal")
    }
    numbers = ", ".join(f"{name} {max(values):.3f}" for name, values in apart.items())
    return max(apart["nash_mtl"]) < SAME, f"largest change of a share when the first loss is not scaled: {numbers}"


def nash_mtl_is_balanced(results: dict[str, Any]) -> Verdict:
    """Nash-MTL's solutions are well balanced across the front."""
    shares = _of(results, "nash", "nash_mtl", "share")
    mean = float(np.mean(shares))
    return min(shares) > 0.1 and max(shares) < 0.9 and abs(mean - 0.5) < 0.1, f"shares {_list(shares)}, mean {mean:.2f}"


CLAIMS: dict[str, tuple[Callable[[dict[str, Any]], Verdict], ...]] = {
    "CAGrad, figures 1 and 3, section 5.1": (
        gd_is_stuck_twice,
        others_reach_the_front,
        mgda_and_pcgrad_end_where_the_start_says,
        mgda_and_pcgrad_stop_at_the_front,
        cagrad_ends_at_the_minimum,
        c_leads_from_gd_to_mgda,
    ),
    "Nash-MTL, figure 1": (
        second_task_controls,
        rightmost_start_fails,
        mgda_leans_to_the_small_gradient,
        nash_mtl_reaches_the_front,
        nash_mtl_ignores_scale,
        nash_mtl_is_balanced,
    ),
}


def _runs(results: dict[str, Any], problem: str, method: str) -> list[dict[str, Any]]:
    return results["problems"][problem]["methods"][method]


def _of(results: dict[str, Any], problem: str, method: str, key: str, *, reached: bool = False) -> list[float]:
    runs = _runs(results, problem, method)
    return [run[key] for run in runs if not reached or run["distance"] < REACHED]


def _moved(results: dict[str, Any], problem: str, method: str) -> list[float]:
    runs = _runs(results, problem, method)
    return [1.0 if run["arrival"] is None else abs(run["share"] - run["arrival"]) for run in runs]


def _list(shares: Sequence[float]) -> str:
    return " ".join(f"{share:.2f}" for share in shares)


def _shares(shares: dict[str, list[float]]) -> str:
    return "; ".join(f"{name} {_list(values)}" for name, values in shares.items())
