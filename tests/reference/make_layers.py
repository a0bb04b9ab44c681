"""Writes layers.npz: pooling and resizing, computed with PyTorch in float64.

    python make_layers.py

Needs PyTorch; the tests read the stored file only. Arrays keep PyTorch's layout: channels first, [b, c, h, w].
Everything is float64 unless said otherwise.

layers.npz, from torch.nn.functional:

- `pool/input` [2, 3, 6, 8], small whole numbers, so that most windows have ties. `pool/output` [2, 3, 3, 4] and
  `pool/indices` int64 (position y * 8 + x in the input's plane) from max_pool2d(2, 2); `pool/cotangent` of the output
  and `pool/gradient` of the input.
- `unpool/input` [2, 3, 3, 4] and `unpool/output` [2, 3, 6, 8] from max_unpool2d with `pool/indices`;
  `unpool/cotangent`, `unpool/gradient`.
- `resize/HxW/input` [2, 3, H, W], `resize/HxW/output` [2, 3, 2H, 2W] from interpolate(scale_factor=2, bilinear,
  align_corners=True), `resize/HxW/cotangent`, `resize/HxW/gradient`, for HxW of 1x1, 2x3, 4x4, 5x8 and 9x12.
"""

import pathlib

import numpy as np
import torch
import torch.nn.functional as F

SEED = 20190617
FOLDER = pathlib.Path(__file__).parent


def gradient(output, cotangent, source):
    return torch.autograd.grad(output, source, cotangent)[0].numpy()


def make_layers(rng):
    stored = {}
    pooled = torch.tensor(rng.integers(-2, 2, (2, 3, 6, 8)).astype(np.float64), requires_grad=True)
    output, indices = F.max_pool2d(pooled, 2, 2, return_indices=True)
    cotangent = torch.tensor(rng.normal(size=output.shape))
    stored["pool/input"] = pooled.detach().numpy()
    stored["pool/output"] = output.detach().numpy()
    stored["pool/indices"] = indices.numpy()
    stored["pool/cotangent"] = cotangent.numpy()
    stored["pool/gradient"] = gradient(output, cotangent, pooled)

    unpooled = torch.tensor(rng.normal(size=output.shape), requires_grad=True)
    output = F.max_unpool2d(unpooled, indices, 2, 2)
    cotangent = torch.tensor(rng.normal(size=output.shape))
    stored["unpool/input"] = unpooled.detach().numpy()
    stored["unpool/output"] = output.detach().numpy()
    stored["unpool/cotangent"] = cotangent.numpy()
    stored["unpool/gradient"] = gradient(output, cotangent, unpooled)

    for height, width in [(1, 1), (2, 3), (4, 4), (5, 8), (9, 12)]:
        small = torch.tensor(rng.normal(size=(2, 3, height, width)), requires_grad=True)
        output = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=True)
        cotangent = torch.tensor(rng.normal(size=output.shape))
        stored[f"resize/{height}x{width}/input"] = small.detach().numpy()
        stored[f"resize/{height}x{width}/output"] = output.detach().numpy()
        stored[f"resize/{height}x{width}/cotangent"] = cotangent.numpy()
        stored[f"resize/{height}x{width}/gradient"] = gradient(output, cotangent, small)
    return stored


if __name__ == "__main__":
    np.savez_compressed(FOLDER / "layers.npz", **make_layers(np.random.default_rng(SEED)))
