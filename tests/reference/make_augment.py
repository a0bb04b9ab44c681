"""Makes augment.npz: PyTorch's F.interpolate on crops, as the authors' augmentation calls it.

python tests/reference/make_augment.py     (needs torch; written with torch 2.13)
"""

import pathlib

import numpy as np
import torch
from torch.nn import functional

HEIGHT, WIDTH, TOP, LEFT = 23, 31, 2, 3
FULL_SIZES = (64, 128, 256, 288, 384, 480, 640, 1024)


def resize(array, size, mode):
    channels_first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0)))[None]
    align = {"align_corners": True} if mode == "bilinear" else {}
    return np.moveaxis(functional.interpolate(channels_first, size=size, mode=mode, **align)[0].numpy(), 0, -1)


def main():
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.random((HEIGHT, WIDTH, 3), dtype=np.float32),
        "semantic": rng.integers(-1, 13, (HEIGHT, WIDTH)).astype(np.int32),
        "depth": rng.uniform(0.5, 9, (HEIGHT, WIDTH, 1)).astype(np.float32),
        "normal": rng.normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32),
    }
    arrays["normal"] /= np.linalg.norm(arrays["normal"], axis=-1, keepdims=True)
    for scale in (1.2, 1.5):
        height, width = int(HEIGHT / scale), int(WIDTH / scale)
        crop = {name: array[TOP : TOP + height, LEFT : LEFT + width] for name, array in list(arrays.items())[:4]}
        size = (HEIGHT, WIDTH)
        labels = crop["semantic"][..., None].astype(np.float32)
        arrays[f"semantic {scale}"] = resize(labels, size, "nearest")[..., 0].astype(np.int32)
        arrays[f"depth {scale}"] = resize(crop["depth"], size, "nearest") / scale
        arrays[f"image {scale}"] = resize(crop["image"], size, "bilinear")
        arrays[f"normal {scale}"] = resize(crop["normal"], size, "bilinear")
        for full in FULL_SIZES:
            line = np.arange(int(full / scale), dtype=np.float32)[:, None, None]
            arrays[f"nearest {full} {scale}"] = resize(line, (full, 1), "nearest").ravel().astype(np.int16)
    np.savez_compressed(pathlib.Path(__file__).with_name("augment.npz"), **arrays)


if __name__ == "__main__":
    main()
