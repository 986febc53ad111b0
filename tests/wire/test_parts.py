import pytest

from car_rpc.wire.parts import MAX_PARTS, file_parts, is_later_part


def test_the_first_part_of_a_model_stands_for_all() -> None:
    assert file_parts("Q4/big-00001-of-00003.gguf") == [
        f"Q4/big-0000{part}-of-00003.gguf" for part in (1, 2, 3)
    ]
    assert file_parts("big-00001-of-00001.gguf") == ["big-00001-of-00001.gguf"]
    assert len(file_parts(f"big-00001-of-{MAX_PARTS:05}.gguf")) == MAX_PARTS


@pytest.mark.parametrize(
    "name",
    [
        "small.gguf",
        "big-00002-of-00003.gguf",
        "big-00001-of-00003.gguf.part",
        "big-00001-of-00003.safetensors",
        "big-1-of-3.gguf",
        f"big-00001-of-{MAX_PARTS + 1:05}.gguf",
        "big-00001-of-00003.gguf\n",
        "big-00001-of-00000.gguf",
        "",
    ],
)
def test_any_other_name_stands_for_itself(name: str) -> None:
    assert file_parts(name) == [name]


def test_a_later_part_is_known() -> None:
    assert is_later_part("big-00002-of-00003.gguf")
    assert not is_later_part("big-00001-of-00003.gguf")
    assert not is_later_part("small.gguf")
