"""Parameter counts of the authors' networks, counted on their code (im2im_pred)."""

import pathlib
import runpy

import pytest
from helpers import toy_sets_config

from mtan_jax.commands.summary import count, stage_table, summary
from mtan_jax.experiment import Experiment
from mtan_jax.models.backbones.segnet import segnet

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def make_experiment(name, backbone="segnet", **options):
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](f"backbone={backbone}")
    config.data.options.update(options)
    return Experiment.from_config(config)


def numbers(text):
    """The lines of the table, by their first words."""
    return {line[:28].strip(): line[28:].strip() for line in text.splitlines() if len(line) > 28}


def test_nyuv2():
    table = numbers(summary(make_experiment("nyuv2")))
    assert table["total"] == "44,229,073"
    # The paper's column "#P.": 1.77 x a network of segmentation alone.
    assert table["single task (semantic)"] == "24,981,069"
    assert table["ratio"] == "1.7705"


def test_cityscapes():
    text = summary(make_experiment("cityscapes"))
    table = numbers(text)
    assert table["total"] == "41,206,984"
    # The authors divide by their network of 13 classes, 24,981,069, and get 1.6495; this one has 7.
    assert table["single task (semantic)"] == f"{24_981_069 - 6 * 65:,}"
    assert table["ratio"] == "1.6496"
    assert f"{41_206_984 / 24_981_069:.4f}" == "1.6495"
    assert "mtan on segnet, width 1, float32, image 128x256" in text
    assert "semantic 7, depth 1" in text


def test_stages_of_segnet_by_hand():
    # Halved after each encoder block: sides 32x64, 16x32, ... Decoder i ends in the channels of encoder i - 1.
    assert [tuple(line.split()) for line in stage_table(segnet(), (32, 64)).splitlines()] == [
        ("stage", "look", "gate", "hidden", "shared", "resample"),
        ("encoder_0", "32x64x64", "32x64x64", "64", "yes", "down"),
        ("encoder_1", "16x32x128", "16x32x128", "128", "yes", "down"),
        ("encoder_2", "8x16x256", "8x16x256", "256", "yes", "down"),
        ("encoder_3", "4x8x512", "4x8x512", "512", "yes", "down"),
        ("encoder_4", "2x4x512", "2x4x512", "512", "yes", "down"),
        ("decoder_4", "2x4x512", "2x4x512", "512", "yes", "up"),
        ("decoder_3", "4x8x512", "4x8x256", "256", "yes", "up"),
        ("decoder_2", "8x16x256", "8x16x128", "128", "yes", "up"),
        ("decoder_1", "16x32x128", "16x32x64", "64", "yes", "up"),
        ("decoder_0", "32x64x64", "32x64x64", "64", "yes", "up"),
    ]
    # The last layer of a ResNet keeps its size and goes to the heads as it is.
    table = summary(make_experiment("cityscapes", backbone="resnet50"))
    assert "layer_4".ljust(16) + "16x32x2048".rjust(15) * 2 + "     512       -         -" in table.splitlines()


def test_wide_resnet_of_image_sets(tmp_path):
    """By hand: every group halves the sides; a sixteenth of the channels 16, 64, 128, 256."""
    config = toy_sets_config.get_config()
    config.data.data_dir = str(tmp_path)
    text = summary(Experiment.from_config(config))
    stages = [tuple(line.split()) for line in text.splitlines() if line.startswith(("stem ", "group_"))]
    assert stages == [
        ("stem", "16x16x1", "16x16x1", "1", "yes", "down"),
        ("group_0", "8x8x4", "8x8x4", "4", "yes", "down"),
        ("group_1", "4x4x8", "4x4x8", "8", "yes", "down"),
        ("group_2", "2x2x16", "2x2x16", "16", "yes", "-"),
    ]
    table = numbers(text)
    stem, norms = 27 + 1, 2 * (1 + 4 + 4 + 8 + 8 + 16 + 16)
    blocks = sum(9 * a * b + 9 * b * b + a * b + 3 * b for a, b in ((1, 4), (4, 8), (8, 16)))
    assert table["backbone"] == f"{stem + norms + blocks:,}"
    assert table["backbone alone"] == f"{stem + norms + blocks:,}"


def test_modules_and_parts_add_up():
    experiment = make_experiment("cityscapes", num_classes=19)
    params = experiment.abstract_variables["params"]
    modules, parts = summary(experiment).split("part  ")
    shown = {
        name: int(number.replace(",", ""))
        for name, number in numbers(modules).items()
        if number.replace(",", "").isdigit()
    }
    assert {name: shown[name] for name in params} == {name: count(tree) for name, tree in params.items()}
    # 12 more classes: 64 weights and a bias each in the last layer of the head.
    total = 41_206_984 + 12 * 65
    assert sum(shown[name] for name in params) == total
    shown = {
        name: int(number.replace(",", ""))
        for name, number in numbers(parts).items()
        if number.replace(",", "").isdigit()
    }
    assert shown["shared"] + shown["attention"] + shown["heads"] == shown["total"] == total
    assert shown["heads"] == count([tree for name, tree in params.items() if name.startswith("head_")])


# Kept without heads, relative to the backbone of 5,850,528 parameters (papers print those of other backbones).
RATIOS = {
    "mtan": "1.6125",  # (10,237,656 - 803,896) / 5,850,528
    "split": "1.0000",
    "single": "10.0000",
    "feature_extraction": "1.0000",
    # Adapters have 644,144 weights; factors and bases of half the rank 10 * 322,072 + 344,192 (docs/decathlon.md).
    "parallel_adapters": "2.1121",
    "parallel_svd": "1.6204",
    # 5,839,280 weights, 4,048 biases, 7,200 of BatchNorm: the first two once, the last ten times, ten bits a weight
    "piggyback": "1.3230",
}


@pytest.mark.parametrize("arch", RATIOS)
def test_the_decathlons_networks(arch, tmp_path):
    config = runpy.run_path(str(CONFIGS / "decathlon.py"))["get_config"](f"arch={arch}")
    config.data.data_dir = str(tmp_path)
    table = numbers(summary(Experiment.from_config(config)))
    assert table["backbone alone"] == "5,850,528"
    assert table["ratio without heads"] == RATIOS[arch]


@pytest.mark.parametrize(("config", "rank"), [("decathlon", 0.25), ("mini_decathlon", 0.5), ("mini_decathlon", 1.0)])
def test_compressed_adapters_by_the_formula(config, rank, tmp_path):
    """Per 3x3 convolution from c to d channels, r * (t * c + d) weights of t tasks' factors and of the basis."""
    config = runpy.run_path(str(CONFIGS / f"{config}.py"))["get_config"]("arch=parallel_svd")
    config.data.data_dir, config.model.adapter_rank = str(tmp_path), rank
    table = numbers(summary(Experiment.from_config(config)))
    tasks, blocks = len(config.tasks), {"wrn28_4": 4, "wrn10_4": 1}[config.model.backbone]
    stem, *groups = (round(config.model.width * channels) for channels in (16, 64, 128, 256))
    steps = list(zip((stem, *groups), groups, strict=False))
    pairs = [(3, stem), *((c, d) for a, b in steps for c, d in [(a, b)] + (2 * blocks - 1) * [(b, b)])]
    convs = sum(9 * c * d + d for c, d in pairs) + sum(a * b + b for a, b in steps)
    norms = 2 * (sum(c for c, _ in pairs[1:]) + groups[-1])
    ranks = [round(rank * d) for _, d in pairs]
    factors = sum(tasks * c * r for (c, _), r in zip(pairs, ranks, strict=True))
    bases = sum(r * d for (_, d), r in zip(pairs, ranks, strict=True))
    assert table["per-task backbones"] == f"{factors + tasks * norms:,}"
    assert table["frozen"] == f"{convs + bases:,}"
    assert table["backbone alone"] == f"{convs + norms:,}"
    assert table["ratio without heads"] == f"{(convs + bases + factors + tasks * norms) / (convs + norms):.4f}"


def test_bits_of_masks_are_rounded_as_kept_whatever_the_width(tmp_path):
    """A mask of n weights takes ceil(n / 32) words; 0.3 times 16, 64, 128, 256 channels."""
    config = runpy.run_path(str(CONFIGS / "decathlon.py"))["get_config"]("arch=piggyback,backbone=wrn10_4,width=0.3")
    config.data.data_dir = str(tmp_path)
    table = numbers(summary(Experiment.from_config(config)))
    pairs = ((5, 19), (19, 38), (38, 77))
    kernels = [27 * 5, *(size for a, b in pairs for size in (9 * a * b, 9 * b * b, a * b))]
    biases = 5 + sum(3 * b for _, b in pairs)
    norms = 2 * (sum(a + b for a, b in pairs) + 77)
    own = 10 * (sum(-(-size // 32) for size in kernels) + norms)
    assert table["per-task backbones"] == f"{own:,}"
    assert table["frozen"] == f"{sum(kernels) + biases:,}"
    heads = int(table["heads"].replace(",", ""))
    assert table["total"] == f"{own + sum(kernels) + biases + heads:,}"
