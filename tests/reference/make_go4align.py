"""Writes go4align.npz: how the authors' GO4Align weighs given losses, in float64.

    python make_go4align.py --go4align=<checkout of github.com/autumn9999/GO4Align, commit 5fcbc71>

Needs PyTorch, scikit-learn and cvxpy; the tests read the stored file only. The class is GO4ALIGN in
`methods/cluster_methods.py`. It calls a function `kmeans` whose import is commented out. Here that is scikit-learn's
k-means, the best of 100 random starts.

- `K/losses` [20, K] for K = 2, 3 and 10 tasks: of 20 steps.
- `K/GROUPS/STEP_SIZE` [20, K]: the weights, the derivatives of the total loss by the losses.
"""

import argparse
import pathlib
import sys

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent
STEPS, STARTS = 20, 100
CASES = {2: (1, 2), 3: (1, 2, 3), 10: (1, 2, 3, 4)}


def best_of_many(X, num_clusters, distance, device):  # noqa: N803 (the name in the call)
    from sklearn.cluster import KMeans

    found = KMeans(num_clusters, n_init=STARTS, tol=0.0, random_state=0).fit(X.numpy())
    return torch.tensor(found.labels_.astype(int)), torch.tensor(found.cluster_centers_)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--go4align", type=pathlib.Path, required=True)
    sys.path.insert(0, str(parser.parse_args().go4align))
    from methods import cluster_methods

    torch.set_default_dtype(torch.float64)
    cluster_methods.kmeans = best_of_many
    rng, stored = np.random.default_rng(0), {}
    for tasks, groups in CASES.items():
        losses = rng.uniform(0.1, 3, (STEPS, tasks)) * np.linspace(1, 0.3, STEPS)[:, None]
        stored[f"{tasks}/losses"] = losses
        for count in groups:
            for step_size in (1e-4, 0.1):
                method, found = cluster_methods.GO4ALIGN(tasks, "cpu", count, robust_step_size=step_size), []
                for values in losses:
                    given = torch.tensor(values, requires_grad=True)
                    method.backward(given)
                    found.append(given.grad.numpy())
                stored[f"{tasks}/{count}/{step_size}"] = np.stack(found)
    np.savez_compressed(FOLDER / "go4align.npz", **stored)


if __name__ == "__main__":
    main()
