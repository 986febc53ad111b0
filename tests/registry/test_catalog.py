import msgspec
import pytest

from car_rpc.errors import CarError
from car_rpc.registry.builtin import builtin_models
from car_rpc.registry.catalog import Catalog, Unlocated, normalised, require_capability
from car_rpc.registry.curated import curated
from car_rpc.testing import scripted_model
from car_rpc.wire.models import ModelSchema, SystemSource


def catalog(*ids: str) -> Catalog:
    return Catalog([scripted_model(model_id, []) for model_id in ids])


def test_a_model_is_found_by_its_id_and_by_its_name() -> None:
    models = catalog("a/small:q4", "a/large:q4")
    assert models.find("a/small:q4").id == "a/small:q4"
    assert models.find("large").id == "a/large:q4"


def test_a_name_may_hold_slashes_and_colons() -> None:
    model = normalised(scripted_model("hub/org/name:tag", []))
    assert (model.provider, model.name) == ("hub", "org/name")


def test_a_name_that_was_given_is_kept() -> None:
    given = msgspec.structs.replace(scripted_model("a/b:c", []), name="mine", provider="me")
    assert (normalised(given).name, normalised(given).provider) == ("mine", "me")


def test_an_ambiguous_name_lists_the_ids_to_choose_from() -> None:
    with pytest.raises(CarError, match="b/one:a, c/one:a") as caught:
        catalog("c/one:a", "b/one:a", "b/two:a").find("one")
    assert caught.value.kind == "invalid_params"
    assert caught.value.data["candidates"] == ["b/one:a", "c/one:a"]
    assert caught.value.data["path"] == "$.model"


def test_a_name_is_found_whatever_its_letters_case_and_an_id_is_not() -> None:
    models = catalog("a/Small:Q4")
    assert models.find("SMALL").id == "a/Small:Q4"
    for wanted in ("a/small:q4", "A/Small:Q4", "Small:Q4"):
        with pytest.raises(CarError, match="model not found"):
            models.find(wanted)
    with pytest.raises(CarError, match="a/ONE:1, b/one:1"):
        catalog("a/ONE:1", "b/one:1").find("One")


def test_a_name_that_the_user_gave_goes_before_one_that_is_built_in() -> None:
    """A later version of car-rpc knows more models, and takes no name away from an app."""
    models = catalog("a/small:1", "b/small:1")
    models.replace_user_models([scripted_model("me/Small:1", [])])
    assert models.find("small").id == "me/Small:1"
    models.replace_user_models([scripted_model(f"me/small:{n}", []) for n in (1, 2)])
    with pytest.raises(CarError) as caught:
        models.find("small")
    assert caught.value.data["candidates"] == ["me/small:1", "me/small:2"]


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(CarError, match="'nobody'") as caught:
        catalog("a/b:c").find("nobody")
    assert (caught.value.kind, caught.value.data["model"]) == ("model_not_found", "nobody")


def test_without_a_wish_the_first_available_model_serves_and_demo_models_come_last() -> None:
    models = catalog("demo/a:1", "x/b:1", "x/a:1")
    assert models.available_for("generate", lambda _: True)[0].id == "x/a:1"
    assert models.available_for("generate", lambda m: m.id != "x/a:1")[0].id == "x/b:1"
    assert models.available_for("generate", lambda m: m.provider == "demo")[0].id == "demo/a:1"


@pytest.mark.parametrize(("mlx_first", "best"), [(False, "gguf"), (True, "mlx")])
def test_of_one_model_the_form_for_the_better_engine_serves(mlx_first: bool, best: str) -> None:
    models = Catalog(builtin_models(), mlx_first=mlx_first)
    chats = models.available_for("generate", lambda _: True)
    assert chats[0].id == f"demo/tiny-chat:{best}"
    assert len(chats) == 2


@pytest.mark.parametrize("capability", ["generate", "embed"])
def test_when_nothing_serves_the_capability_is_named(capability: str) -> None:
    with pytest.raises(CarError) as caught:
        catalog("a/b:c").available_for(capability, lambda _: False)  # pyright: ignore[reportArgumentType] - a parameter
    assert caught.value.kind == "model_not_found"
    assert caught.value.data["capability"] == capability


def test_a_model_asked_for_what_it_does_not_declare_is_refused() -> None:
    model = scripted_model("a/b:c", [])
    assert require_capability(model, "generate") is model
    with pytest.raises(CarError, match="does not declare the Embed capability") as caught:
        require_capability(model, "embed")
    assert caught.value.kind == "unsupported_mode"


def test_the_users_models_are_replaced_as_a_whole_and_never_hide_a_built_in_one() -> None:
    models = catalog("in/built:1")
    models.replace_user_models([scripted_model("me/one:1", []), scripted_model("in/built:1", [])])
    models.replace_user_models([scripted_model("me/two:1", [], ["embed"])])
    assert [model.id for model in models.all()] == ["in/built:1", "me/two:1"]
    assert models.find("built").capabilities == ["generate"]
    assert models.is_builtin("in/built:1")
    assert not models.is_builtin("me/two:1")


def test_the_built_in_models_are_toys_or_of_the_system_and_have_distinct_ids() -> None:
    models = builtin_models()
    assert len({model.id for model in models}) == len(models)
    assert {normalised(model).provider for model in models} == {"demo", "system"}
    for model in models:
        assert ("demo" in model.tags) == (normalised(model).provider == "demo")
        assert isinstance(model.source, SystemSource) == (normalised(model).provider == "system")


def test_the_users_own_models_go_before_those_of_the_curated_catalog() -> None:
    curated = msgspec.structs.replace(scripted_model("a/c:1", []), trust_tier="curated")
    models = Catalog([curated])
    models.replace_user_models([scripted_model("z/mine:1", [])])
    ids = [model.id for model in models.available_for("generate", lambda _: True)]
    assert ids == ["z/mine:1", "a/c:1"]


def test_speech_of_the_system_is_chosen_after_every_other_model_and_before_a_toy() -> None:
    ids = ["demo/hear:1", "z/hear:1"]
    hearing = [scripted_model(model_id, [], ["speech_to_text"]) for model_id in ids]
    models = Catalog([*builtin_models(), *hearing])
    ids = [model.id for model in models.available_for("speech_to_text", lambda _: True)]
    assert ids == ["z/hear:1", "system/pocketsphinx:en-us"]
    toys = models.available_for("speech_to_text", lambda m: m.provider == "demo")
    assert [model.id for model in toys] == ["demo/hear:1"]


@pytest.mark.parametrize(("mlx_first", "variant"), [(True, "mlx-4bit"), (False, "q4_k_m")])
def test_both_formats_of_a_curated_model_are_one_model(mlx_first: bool, variant: str) -> None:
    models = Catalog(curated().models, mlx_first=mlx_first)
    wanted = {"qwen/qwen3-4b:mlx-4bit", "qwen/qwen3-4b:q4_k_m"}
    best = models.available_for("generate", lambda model: model.id in wanted)[0]
    assert best.id == f"qwen/qwen3-4b:{variant}"


def test_the_models_are_looked_at_again_once_a_look_no_longer_holds() -> None:
    looks: list[Unlocated] = []
    stale: set[int] = set()

    class Passing(Unlocated):
        def holds(self) -> bool:
            return id(self) not in stale

    def look(models: list[ModelSchema]) -> Unlocated:
        looks.append(Passing(models))
        return looks[-1]

    models = Catalog([scripted_model("a/b:c", [])], look)
    assert models.now() is models.now()
    models.find("a/b:c")
    assert len(looks) == 1
    stale.add(id(looks[0]))
    models.all()
    models.replace_discovered([scripted_model("d/e:f", [])])
    assert [model.id for model in models.all()] == ["a/b:c", "d/e:f"]
    assert len(looks) == 3
