"""The fields of a configuration, and the text after ':'."""

import pytest
from ml_collections import ConfigDict

from mtan_jax.config import Argument, check_fields, default_config


def test_argument_reads_words_and_pairs():
    argument = Argument.parse("smoke,arch=mtan,width=0.25,backbone=segnet,protocol=benchmark")
    assert argument == Argument(smoke=True, arch="mtan", backbone="segnet", width=0.25, protocol="benchmark")
    assert Argument.parse(None) == Argument.parse("") == Argument()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smok", r"'smok' is not known; known: smoke, arch=, backbone=, width=, protocol= joined by commas"),
        ("depth=2", r"'depth=2' is not known; known: smoke, arch="),
        ("smoke=1", r"'smoke=1' is not known"),
        ("width", r"'width' is not known"),
        ("smoke,width=wide", r"width=wide: a number is needed"),
        ("protocol=papr", r"protocol=papr: known: paper, benchmark"),
    ],
)
def test_argument_messages(text, message):
    with pytest.raises(ValueError, match=message):
        Argument.parse(text)


def test_argument_changes_only_what_it_says():
    config = default_config()
    Argument.parse("width=0.5").apply(config)
    assert config.model.width == 0.5
    config.model.width = 1.0
    assert config.to_dict() == default_config().to_dict()


def test_unknown_and_missing_fields_are_listed():
    config = default_config()
    config.modle = ConfigDict({"width": 0.5})
    config.data.agument = True
    del config.eval.every
    message = (
        r"unknown fields config\.data\.agument, config\.modle\.width and no fields config\.eval\.every; mtan_jax/config"
    )
    with pytest.raises(ValueError, match=message):
        check_fields(config)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [("", "batch_size", 0), ("", "accumulate", 0), ("eval", "average_last", 0), ("data", "workers", -1)],
)
def test_numbers_that_are_too_small(section, field, value):
    config = default_config()
    (config[section] if section else config)[field] = value
    name = f"{section}.{field}".lstrip(".")
    with pytest.raises(ValueError, match=rf"config\.{name} = {value}: expected at least {value + 1}"):
        check_fields(config)
