"""--mode=config shows every field with its value, its meaning and the names that it may hold."""

import functools

from mtan_jax.commands.show_config import field_comments, show_config
from mtan_jax.config import default_config
from mtan_jax.weighting import METHODS


def leaves(config, prefix=""):
    for name in config:
        value = config.get(name)
        if hasattr(value, "items") and len(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_every_field_is_shown_once_with_its_value():
    config = default_config()
    config.batch_size = 12
    text = show_config(config)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert sorted(line.split(" = ")[0] for line in lines) == sorted(leaves(config))
    assert any(line.startswith("batch_size = 12 ") for line in lines)
    assert all(len(line) <= 120 for line in text.splitlines())


def test_every_field_has_a_comment():
    comments = field_comments()
    for name in leaves(default_config()):
        parts = name.split(".")
        assert any(".".join(parts[:i]) in comments for i in range(len(parts), 0, -1)), name
    for name in comments:  # and none is of a field that is not there
        functools.reduce(lambda config, part: config[part], name.split("."), default_config())


def test_names_of_the_registries_are_listed():
    text = " ".join(show_config(default_config()).replace("#", " ").split())
    assert f"known: {', '.join(sorted(METHODS))}" in text
    assert "known: cityscapes, decathlon, mini_decathlon, nyuv2, streets" in text
