"""The two raw layouts of Cityscapes: the official release and the MTAN authors' preprocessed arrays."""

from mtan_jax.data.raw.raw_layout import RawLayout

RELEASE = RawLayout(
    dataset="Cityscapes",
    name="release",
    expected=(
        "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png    or leftImg8bit_trainvaltest.zip",
        "gtFine/{train,val}/CITY/*_gtFine_labelIds.png    or gtFine_trainvaltest.zip",
        "disparity/{train,val}/CITY/*_disparity.png    or disparity_trainvaltest.zip",
        'camera/{train,val}/CITY/*_camera.json    or camera_trainvaltest.zip (only for depth="inverse_depth")',
    ),
    source="https://www.cityscapes-dataset.com/downloads (free for research, registration required)",
    signs=("leftImg8bit", "gtFine", "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
    others=("'authors' ({train,val}/image/*.npy and one folder per target), as preprocessed by the MTAN authors",),
)

AUTHORS = RawLayout(
    dataset="Cityscapes",
    name="authors",
    expected=(
        "{train,val}/image/I.npy    [128, 256, 3] in 0..1",
        "{train,val}/label_7/I.npy    [128, 256], -1 = void, 0..6; label_2 or label_19 for 2 or 19 classes",
        "{train,val}/depth/I.npy    [128, 256, 1] disparity / 65535, 0 = undefined",
    ),
    source="the preprocessed CityScapes (128x256 or 256x512) linked in the README of https://github.com/lorenmt/mtan",
    signs=("train/image/*.npy", "val/image/*.npy"),
    others=("'release' (leftImg8bit and gtFine, folders or zips), the official release",),
)
