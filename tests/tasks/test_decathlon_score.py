import re

import pytest

from mtan_jax.tasks.decathlon_score import FINETUNING_ERRORS, decathlon_score

COLUMNS = [
    *("imagenet12", "aircraft", "cifar100", "daimlerpedcls", "dtd"),
    *("gtsrb", "vgg-flowers", "omniglot", "svhn", "ucf101"),
]
# Table 5 of Liu, Johns and Davison (CVPR 2019): accuracies in per cent, their mean, the score.
FINETUNED = "59.87 60.34 82.12 92.82 55.53 97.53 81.41 87.69 96.55 51.20"
TABLE = {
    "from scratch": ("59.87 57.10 75.73 91.20 37.77 96.55 56.30 88.74 96.63 43.27", 70.32, 1625),
    "feature extraction": ("59.67 23.31 63.11 80.33 45.37 68.16 73.69 58.79 43.54 26.80", 54.28, 544),
    "finetuned": (FINETUNED, 76.51, 2500),
    "DAN": ("57.74 64.12 80.07 91.30 56.54 98.46 86.05 89.67 96.77 49.38", 77.01, 2851),
    "Piggyback": ("57.69 65.29 79.87 96.99 57.45 97.27 79.09 87.63 97.24 47.48", 76.60, 2838),
    "parallel SVD": ("60.32 66.04 81.86 94.23 57.82 99.24 85.74 89.25 96.62 52.50", 78.36, 3398),
    "MTAN": ("63.90 61.81 81.59 91.63 56.44 98.80 81.04 89.83 96.88 50.63", 77.25, 2941),
}


def fractions(cells, shift=0.0):
    return {name: float(cell) / 100 + shift for name, cell in zip(COLUMNS, cells.split(), strict=True)}


@pytest.mark.parametrize("method", TABLE)
def test_published_rows(method):
    cells, mean, published = TABLE[method]
    assert sum(fractions(cells).values()) * 10 == pytest.approx(mean, abs=0.01)
    # Accuracies are printed to 0.01 %, those of the baseline too. The score rises with both errors' difference, so the
    # ends of what it can have been are at the ends of the roundings. It is printed without decimals, cut or rounded:
    # the row of feature extraction is between 544.9 and 545.9 and printed as 544.
    half = 0.00005
    shifted = {sign: {name: error + sign * half for name, error in FINETUNING_ERRORS.items()} for sign in (-1, 1)}
    lowest = decathlon_score(fractions(cells, -half), shifted[-1])
    highest = decathlon_score(fractions(cells, half), shifted[1])
    assert highest - lowest < 13  # the test can fail: rows are tens to hundreds apart
    assert lowest - 1 < published < highest + 0.5


def test_baseline_is_the_finetuned_row():
    assert {name: 1 - error for name, error in FINETUNING_ERRORS.items()} == pytest.approx(fractions(FINETUNED))
    assert decathlon_score(fractions(FINETUNED), FINETUNING_ERRORS) == pytest.approx(2500)


def test_by_hand():
    # Errors 0.1, 0.3 and 0.5 against baselines of 0.2, 0.2 and 0.2, that is largest errors of 0.4:
    # 1000 (0.3/0.4)^2 = 562.5; 1000 (0.1/0.4)^2 = 62.5; 0, as 0.5 is above 0.4.
    accuracies = {"a": 0.9, "b": 0.7, "c": 0.5}
    baseline = dict.fromkeys(accuracies, 0.2)
    assert decathlon_score(accuracies, baseline) == pytest.approx(625.0)
    # With gamma 1: 750 + 250 + 0; with 1 for a alone: 750 + 62.5 + 0.
    assert decathlon_score(accuracies, baseline, gamma=1.0) == pytest.approx(1000.0)
    assert decathlon_score(accuracies, baseline, gamma={"a": 1, "b": 2, "c": 2}) == pytest.approx(812.5)
    # A perfect network has 1000 a set, whatever the baseline.
    assert decathlon_score(dict.fromkeys("abc", 1.0), {"a": 0.01, "b": 0.5, "c": 1.0}) == pytest.approx(3000)
    # E_max = 0.6, with the error at it and above it: nothing.
    assert decathlon_score({"a": 0.4}, {"a": 0.3}) == pytest.approx(0, abs=1e-25)
    assert decathlon_score({"a": 0.0}, {"a": 0.3}) == 0


@pytest.mark.parametrize(
    ("accuracies", "baseline", "gamma", "message"),
    [
        ({}, {}, 2, "accuracies is empty"),
        ({"a": 0.5, "b": 0.5}, {"a": 0.5}, 2, "baseline_errors has no entry for b; give one for every dataset"),
        ({"a": 0.5}, {"a": 0.5, "b": 0.5, "c": 0.5}, 2, "accuracies has no entry for b, c; give one"),
        ({"a": 0.5}, {"a": 0.5}, {}, "gamma has no entry for a"),
        ({"a": 0.5}, {"a": 0.5}, {"a": 2, "b": 2}, "accuracies has no entry for b; give one for every dataset"),
        ({"a": 59.87}, {"a": 0.5}, 2, "accuracies['a']=59.87; expected a fraction from 0 to 1, not per cent"),
        ({"a": float("nan")}, {"a": 0.5}, 2, "accuracies['a']=nan"),
        ({"a": 0.5}, {"a": 0.0}, 2, "baseline_errors['a']=0.0; expected a fraction above 0"),
        ({"a": 0.5}, {"a": 40.13}, 2, "baseline_errors['a']=40.13"),
        ({"a": 0.5}, {"a": 0.5}, 0, "gamma for 'a' is 0; expected a positive finite number"),
    ],
)
def test_errors(accuracies, baseline, gamma, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        decathlon_score(accuracies, baseline, gamma=gamma)
