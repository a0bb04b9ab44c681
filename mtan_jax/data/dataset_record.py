"""The properties of a dataset that a run stores, so that its network can be used without the dataset."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import cast

from mtan_jax.data.base_builder import Builder
from mtan_jax.data.builder import DenseBuilder
from mtan_jax.data.image_sets import Colour, ImageSet, ImageSets, ImageSetsInfo
from mtan_jax.types import Options


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """Names and sizes of a prepared dataset.

    Attributes:
        name: as in `config.data.name`.
        image_size: height and width in pixels of the network's input.
        classes: names of the semantic classes of a dense dataset; empty for sets of labelled images.
        examples: number of examples per split of each set; a dense dataset is one set, under its own name.
        sets: properties of each set of labelled images, in the order of the tasks; empty for a dense dataset.
        variants: names of the prepared folders, such as "13-288x384-release", which include the raw layout.
    """

    name: str
    image_size: tuple[int, int]
    classes: tuple[str, ...]
    examples: Mapping[str, Mapping[str, int]]
    sets: Mapping[str, ImageSet]
    variants: Mapping[str, str]

    @classmethod
    def of(cls, builder: DenseBuilder | ImageSets, name: str) -> "DataRecord":
        """Makes the record of a prepared dataset.

        Args:
            builder: of the dataset.
            name: as in `config.data.name`.
        """
        size, examples = _image_size(builder), examples_of(builder, name)
        variants = {key: each.builder_config.name for key, each in builders_of(builder, name).items()}
        if isinstance(builder, ImageSets):
            sets = {key: _plain(each.image_set) for key, each in builder.builders.items()}
            return cls(name, size, (), examples, sets, variants)
        return cls(name, size, _classes(builder), examples, {}, variants)

    @property
    def sets_info(self) -> ImageSetsInfo:
        """Properties of the sets of labelled images."""
        return ImageSetsInfo(self.name, self.image_size, self.sets)

    def mismatches(self, builder: DenseBuilder | ImageSets, name: str) -> list[str]:
        """Compares with the dataset of a configuration, without its data. Returns one line per field that differs."""
        there: dict[str, object] = {"name": self.name, "image_size": self.image_size}
        here: dict[str, object] = {"name": name, "image_size": _image_size(builder)}
        if self.name == name:
            there["sets"], here["sets"] = tuple(self.sets), ()
            if isinstance(builder, ImageSets):
                here["sets"] = tuple(builder.builders)
            else:
                there["classes"], here["classes"] = self.classes, _classes(builder)
        return _differences(there, here)

    def differences(self, other: "DataRecord") -> list[str]:
        """Compares with another record. Returns one line per field that differs."""
        return _differences(self._fields(), other._fields())

    def class_differences(self, other: "DataRecord") -> list[str]:
        """Compares classes and variants, on which the meaning of outputs depends. Returns one line per difference."""
        return _differences(self._classes(), other._classes())

    def to_json(self) -> str:
        """Serializes the record; `from_json` reads it."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "DataRecord":
        """Reads a record.

        Raises:
            ValueError: a field is missing or invalid.
        """
        try:
            content = json.loads(text)
            record = cls(
                _text(content["name"]),
                cast(tuple[int, int], tuple(_count(side) for side in content["image_size"])),
                tuple(map(_text, content["classes"])),
                {
                    name: {split: _count(number) for split, number in splits.items()}
                    for name, splits in content["examples"].items()
                },
                {name: _image_set(name, fields) for name, fields in content["sets"].items()},
                {name: _text(variant) for name, variant in content["variants"].items()},
            )
        except KeyError as error:
            raise ValueError(f"the field {error} is missing") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"a field has the wrong type: {error}") from error
        for name in record.sets or (record.name,):
            if "train" not in record.examples.get(name, {}):
                raise ValueError(f"the number of training examples of {name!r} is missing in examples")
        return record

    def _classes(self) -> dict[str, object]:
        of_sets = {f"sets.{name}.classes": image_set.classes for name, image_set in self.sets.items()}
        of_variants = {f"variants.{name}": variant for name, variant in self.variants.items()}
        return {"classes": self.classes, **of_sets, **of_variants}

    def _fields(self) -> dict[str, object]:
        fields: dict[str, object] = {"name": self.name, "image_size": self.image_size, "sets": tuple(self.sets)}
        fields |= {
            f"examples.{name}.{split}": number
            for name, splits in self.examples.items()
            for split, number in splits.items()
        }
        for name, image_set in self.sets.items():
            fields |= {f"sets.{name}.{field}": getattr(image_set, field) for field in ("mean", "std", "flip")}
        return fields | self._classes()


def examples_of(builder: DenseBuilder | ImageSets, name: str) -> dict[str, dict[str, int]]:
    """Number of examples per split of each prepared set; a dense dataset is one set, called `name`."""
    return {
        key: {split: int(info.num_examples) for split, info in each.info.splits.items()}
        for key, each in builders_of(builder, name).items()
        if each.is_prepared()
    }


def builders_of(builder: DenseBuilder | ImageSets, name: str) -> Mapping[str, Builder]:
    """The builder of each set; a dense dataset is one set, called `name`."""
    return builder.builders if isinstance(builder, ImageSets) else {name: builder}


def _image_size(builder: DenseBuilder | ImageSets) -> tuple[int, int]:
    height, width = builder.image_size if isinstance(builder, ImageSets) else builder.data_info.image_size
    return int(height), int(width)


def _classes(builder: DenseBuilder) -> tuple[str, ...]:
    return tuple(map(str, builder.data_info.classes))


def _plain(image_set: ImageSet) -> ImageSet:
    """Converts the fields to types that survive JSON."""
    (red, green, blue), (red_std, green_std, blue_std) = map(float, image_set.mean), map(float, image_set.std)
    classes = tuple(map(str, image_set.classes))
    return ImageSet(image_set.name, classes, (red, green, blue), (red_std, green_std, blue_std), bool(image_set.flip))


def _differences(there: Mapping[str, object], here: Mapping[str, object]) -> list[str]:
    names = dict.fromkeys([*there, *here])
    return [
        f"{name}: {_difference(there.get(name), here.get(name))}"
        for name in names
        if not _same(there.get(name), here.get(name))
    ]


def _difference(there: object, here: object) -> str:
    """Both values; for long sequences, such as a thousand class names, only the first difference."""
    if not (isinstance(there, tuple) and isinstance(here, tuple) and max(len(there), len(here)) > 12):
        return f"{there!r} there, {here!r} here"
    if len(there) != len(here):
        return f"{len(there)} there, {len(here)} here"
    index = next(i for i, (a, b) in enumerate(zip(there, here, strict=True)) if a != b)
    return f"the one at position {index} is {there[index]!r} there, {here[index]!r} here"


def _same(there: object, here: object) -> bool:
    """Equality; floats up to the rounding that a different order of summation causes."""
    if isinstance(there, tuple) and isinstance(here, tuple):
        return len(there) == len(here) and all(map(_same, there, here))
    if isinstance(there, float) and isinstance(here, float):
        return math.isclose(there, here, rel_tol=1e-6, abs_tol=1e-9)
    return there == here


def _image_set(name: str, fields: Options) -> ImageSet:
    classes = tuple(map(_text, fields["classes"]))
    if not classes:
        raise ValueError(f"sets.{name}.classes is empty")
    if not isinstance(fields["flip"], bool):
        raise ValueError(f"sets.{name}.flip is {fields['flip']!r}; expected true or false")
    mean, std = (_colour(f"sets.{name}.{field}", fields[field]) for field in ("mean", "std"))
    if min(std) <= 0:
        raise ValueError(f"sets.{name}.std is {fields['std']!r}; expected three numbers above 0")
    return ImageSet(name, classes, mean, std, fields["flip"])


def _colour(name: str, values: Sequence[float]) -> Colour:
    if len(values) != 3 or not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError(f"{name} is {values!r}; expected three finite numbers")
    red, green, blue = map(float, values)
    return red, green, blue


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r}; expected a string")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r}; expected a non-negative integer")
    return value
