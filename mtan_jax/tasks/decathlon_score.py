"""The score of the Visual Decathlon challenge."""

from collections.abc import Mapping

# Test errors (1 - accuracy) of networks fine-tuned from ImageNet on each dataset, by Rebuffi, Bilen and Vedaldi,
# "Learning multiple visual domains with residual adapters" (NIPS 2017), as in Table 5 of Liu, Johns and Davison (CVPR
# 2019).
FINETUNING_ERRORS: Mapping[str, float] = {
    "imagenet12": 0.4013,
    "aircraft": 0.3966,
    "cifar100": 0.1788,
    "daimlerpedcls": 0.0718,
    "dtd": 0.4447,
    "gtsrb": 0.0247,
    "omniglot": 0.1231,
    "svhn": 0.0345,
    "ucf101": 0.4880,
    "vgg-flowers": 0.1859,
}


def decathlon_score(
    accuracies: Mapping[str, float],
    baseline_errors: Mapping[str, float],
    *,
    gamma: float | Mapping[str, float] = 2.0,
) -> float:
    r"""Score of accuracies on all datasets relative to a baseline; higher is better, at most 1000 per dataset.

    $$S = \sum_d \alpha_d \max(0, E_d^{\max} - E_d)^{\gamma_d}, \quad
      \alpha_d = 1000 \, (E_d^{\max})^{-\gamma_d}, \quad E_d^{\max} = 2 E_d^{\text{baseline}}$$

    With $\gamma = 2$ the baseline scores 250 per dataset; a dataset with at least twice the baseline's error scores 0.
    Published scores are computed on test images and are not comparable with those of other splits.

    Args:
        accuracies: accuracy on each dataset, in 0..1.
        baseline_errors: 1 - accuracy of the baseline on the same datasets; `FINETUNING_ERRORS` for the challenge.
        gamma: exponent, one for all datasets or one per dataset.

    Raises:
        ValueError: the names differ, a value is out of range, or a baseline error is 0.
    """
    if not accuracies:
        raise ValueError("accuracies is empty; expected the accuracy on every dataset")
    gammas = gamma if isinstance(gamma, Mapping) else dict.fromkeys(accuracies, gamma)
    _check_names("baseline_errors", baseline_errors, accuracies)
    _check_names("gamma", gammas, accuracies)
    score = 0.0
    for name, accuracy in accuracies.items():
        baseline = baseline_errors[name]
        if not 0 <= accuracy <= 1:
            raise ValueError(f"accuracies[{name!r}]={accuracy}; expected a fraction from 0 to 1, not per cent")
        if not 0 < baseline <= 1:
            raise ValueError(
                f"baseline_errors[{name!r}]={baseline}; expected a fraction above 0 and up to 1, since the score "
                "divides by the baseline's error"
            )
        if not 0 < gammas[name] < float("inf"):
            raise ValueError(f"gamma for {name!r} is {gammas[name]}; expected a positive finite number, such as 2")
        # Equals alpha * max(0, e_max - e) ** gamma, without powers of small numbers.
        score += 1000 * max(0.0, 1 - (1 - accuracy) / (2 * baseline)) ** gammas[name]
    return score


def _check_names(argument: str, given: Mapping[str, float], accuracies: Mapping[str, float]) -> None:
    if lacking := [name for name in accuracies if name not in given]:
        raise ValueError(
            f"{argument} has no entry for {', '.join(lacking)}; give one for every dataset in `accuracies`"
        )
    if surplus := [name for name in given if name not in accuracies]:
        raise ValueError(
            f"accuracies has no entry for {', '.join(surplus)}; give one for every dataset in `{argument}`"
        )
