"""Classes by name and by number: one rule, written here once more as a table."""

from dataclasses import replace

import pytest
import torch

from dfm.basics.errors import UserError
from dfm.data.spec import DatasetSpec
from dfm.sampling.labels import asked_classes, in_turn, other_meaning, renumbered


def spec_of(*names: str, count: int = 0) -> DatasetSpec:
    return DatasetSpec(
        name="pets", shape=(2,), levels=None, num_classes=len(names) or count, mean=0.0, std=1.0, class_names=names
    )


PETS = spec_of("cat", "dog", "Food & Drink")
NUMERIC = spec_of("0", "1", "2", "10", "007")  # folders whose names are numbers, one of them with zeros
WORDS = spec_of("cat", "all", "none", "null")


@pytest.mark.parametrize(
    ("spec", "label", "classes"),
    [
        (PETS, "cat", [0, 0, 0, 0]),
        (PETS, "Food & Drink", [2, 2, 2, 2]),
        (PETS, ["dog", "cat"], [1, 0, 1, 0]),
        (PETS, [0, "Food & Drink"], [0, 2, 0, 2]),
        (PETS, 1, [1, 1, 1, 1]),
        (PETS, "1", [1, 1, 1, 1]),
        (PETS, None, [0, 1, 2, 0]),
        (PETS, "all", [0, 1, 2, 0]),
        (PETS, "none", None),
        (NUMERIC, 2, [2, 2, 2, 2]),
        (NUMERIC, 10, [3, 3, 3, 3]),  # the folder, not the number 10
        (NUMERIC, "007", [4, 4, 4, 4]),
        (WORDS, "all", [0, 1, 2, 3]),
        (WORDS, ["all"], [1, 1, 1, 1]),
        (WORDS, "none", None),
        (WORDS, ["none", "cat"], [2, 0, 2, 0]),
        (WORDS, 1, [1, 1, 1, 1]),
        (spec_of(count=4), [3, 0], [3, 0, 3, 0]),
        (spec_of(count=4), "3", [3, 3, 3, 3]),
        (spec_of(), None, None),
        (spec_of(), "none", None),
    ],
)
def test_classes_by_name_and_by_number(spec: DatasetSpec, label: object, classes: list[int] | None) -> None:
    found = asked_classes(spec, label).of(range(4))  # type: ignore[arg-type]
    assert (found if found is None else found.tolist()) == classes


@pytest.mark.parametrize(
    ("spec", "label", "line"),
    [
        (PETS, "cta", "label=cta: unknown class 'cta'; allowed: cat, dog, Food & Drink, 0 to 2, all, or none; did you "
         "mean 'cat'?"),
        (PETS, "drink", "allowed: Food & Drink, cat, dog,"),  # what is near comes first
        (PETS, "DOG", "did you mean 'dog'?"),
        (PETS, 3, "label=3: unknown class '3'"),
        (PETS, -1, "label=-1: unknown class"),
        (PETS, ["cat", "bird"], "label=bird: unknown class 'bird'"),
        (PETS, [], "at least one class"),
        (PETS, ["cat", 0], "label=[cat,0]; allowed: a list with at least one class, and each class once"),
        (PETS, ["all"], "unknown class 'all'"),
        (NUMERIC, 3, "label=3: unknown class '3'; allowed: 0, 1, 2, 10, 007, all, or none"),
        (NUMERIC, "7", "unknown class '7'"),
        (spec_of(count=4), "cat", "label=cat; allowed: 0 to 3, all, or none"),
        (spec_of(count=4), 4, "label=4; allowed: 0 to 3"),
        (spec_of(), "all", "this model was trained without classes"),
        (spec_of(*(f"n{k:04}" for k in range(1000))), "n05", "980 more names, 0 to 999"),
    ],
)  # fmt: skip
def test_a_class_that_is_not_there(spec: DatasetSpec, label: object, line: str) -> None:
    with pytest.raises(UserError) as error:
        asked_classes(spec, label)  # type: ignore[arg-type]
    assert line in str(error.value)


def test_a_model_that_needs_a_class() -> None:
    with pytest.raises(UserError, match=r"label_dropout=0.*allowed: cat, dog, Food & Drink, 0 to 2, or all; try"):
        asked_classes(PETS, "none", can_omit=False)
    with pytest.raises(UserError, match=r"class of this name is label=\[none\]; try label=all$"):
        asked_classes(WORDS, "none", can_omit=False)
    assert "label=[all]" in other_meaning(WORDS, "all")
    assert not other_meaning(PETS, "all")
    assert not other_meaning(WORDS, "cat")


def test_what_is_kept_of_the_question() -> None:
    assert asked_classes(PETS, "dog").facts == {"label": 1, "label_name": "dog"}
    assert asked_classes(PETS, ["dog", 0]).facts == {"label": [1, 0], "label_name": ["dog", "cat"]}
    assert asked_classes(spec_of(count=4), 3).facts == {"label": 3, "label_name": None}
    assert [asked_classes(PETS, word).facts["label"] for word in (None, "all", "none")] == [None, "all", "none"]
    assert asked_classes(PETS, ["dog", "cat"]).rows == (1, 0)
    assert asked_classes(PETS, "dog").rows == asked_classes(PETS, None).rows == ()
    assert [asked_classes(PETS, "all").whole_rows(n) for n in (1, 3, 7)] == [3, 3, 9]
    assert asked_classes(PETS, "dog").whole_rows(7) == 7
    turn = in_turn(PETS, range(5, 8))
    assert turn is not None
    assert turn.tolist() == [2, 0, 1]


def test_stored_classes_are_found_by_name() -> None:
    stored = torch.tensor([0, 1, 2, 1])
    names = ("dog", "bird", "cat")
    assert renumbered(stored, names, PETS).tolist() == [1, -1, 0, -1]
    assert renumbered(stored, (), PETS) is stored
    assert renumbered(stored, names, spec_of(count=3)) is stored
    assert renumbered(torch.tensor([3, -1]), names, PETS).tolist() == [-1, -1]


def test_names_that_changed() -> None:
    other = spec_of("dog", "cat", "Food & Drink")
    assert PETS.names_changed(other) == "class 0 is 'dog' there, 'cat' here, class 1 is 'cat' there, 'dog' here"
    many = spec_of(*(f"a{k}" for k in range(10)))
    assert many.names_changed(spec_of(*(f"b{k}" for k in range(10)))).endswith(", and 7 more")
    for without in (PETS, spec_of(count=3), spec_of("cat", "dog")):
        assert not PETS.names_changed(without)


def test_names_tell_classes_apart() -> None:
    with pytest.raises(UserError, match="two classes are called 'cat'"):
        spec_of("cat", "dog", "cat")
    with pytest.raises(UserError, match="2 names of classes; allowed: 3"):
        replace(PETS, class_names=("cat", "dog"))
    with pytest.raises(UserError, match="allowed: texts"):
        replace(PETS, class_names=("cat", "dog", 3))
