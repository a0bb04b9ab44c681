"""The two raw layouts of NYUv2: the official release and the MTAN authors' preprocessed arrays."""

from mtan_jax.data.raw.raw_layout import RawLayout

MAT = "nyu_depth_v2_labeled.mat"
SPLITS_MAT = "splits.mat"

RELEASE = RawLayout(
    dataset="NYUv2",
    name="release",
    expected=(
        f"{MAT}    (2.8 GB; images, depths and labels of 1449 frames)",
        f"{SPLITS_MAT}    (trainNdxs, testNdxs; optional: defaults to the official split of the 1449 frames)",
    ),
    source="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html (labeled dataset)",
    signs=(MAT,),
    others=("'authors' ({train,val}/image/*.npy and one folder per target), as preprocessed by the MTAN authors",),
)

AUTHORS = RawLayout(
    dataset="NYUv2",
    name="authors",
    expected=(
        "{train,val}/image/I.npy    [288, 384, 3] in 0..1",
        "{train,val}/label/I.npy    [288, 384], -1 = void, 0..12",
        "{train,val}/depth/I.npy    [288, 384, 1] in metres, 0 = undefined",
        "{train,val}/normal/I.npy    [288, 384, 3] unit vectors, 0 = undefined",
    ),
    source="the preprocessed NYUv2 linked in the README of https://github.com/lorenmt/mtan",
    signs=("train/image/*.npy", "val/image/*.npy"),
    others=(f"'release' ({MAT}), the official release",),
)
