from pathlib import Path

import msgspec
import pytest

from car_rpc import __version__
from car_rpc.cli.doctor import Heard, report
from car_rpc.cli.parser import make_parser, settings
from car_rpc.config import Settings, car_home
from car_rpc.testing import scripted_model
from car_rpc.wire.health import (
    CapabilityHealth,
    CredentialHealth,
    ModelCounts,
    ModelsHealthResult,
    ProviderHealth,
    RoutingScenario,
)
from car_rpc.wire.lifecycle import (
    BackendInfo,
    InitializeResult,
    Limits,
    PeerInfo,
    ServerCapabilities,
    SpecVersion,
)
from car_rpc.wire.models import LocalSource, ModelSchema
from car_rpc.wire.routing import RoutingConfig
from car_rpc.wire.search import Accelerator, Machine, ModelsSearchResult


def served(*arguments: str) -> Settings:
    return settings(make_parser().parse_args(["serve", *arguments]))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_without_options_the_state_lies_in_car_home(home: Path) -> None:
    made = served()
    assert made == Settings(state_dir=home, models_dir=home / "models", log_level=made.log_level)


def test_every_option_of_serve_has_its_effect(tmp_path: Path, home: Path) -> None:
    made = served(
        *["--framing", "lsp", "--state-dir", str(tmp_path), "--models-dir", str(tmp_path / "m")],
        *["--allow-path", str(tmp_path / "a"), "--allow-path", str(tmp_path / "b")],
        *["--parent-pid", "7", "--max-message-bytes", "1000", "--drain-ms", "0"],
        *["--log-level", "debug"],
    )
    assert made == Settings(
        state_dir=tmp_path,
        models_dir=tmp_path / "m",
        framing="lsp",
        allowed_paths=(tmp_path / "a", tmp_path / "b"),
        parent_pid=7,
        max_message_bytes=1000,
        drain_ms=0,
        log_level="debug",
    )


def test_relative_paths_become_absolute(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = served("--state-dir", "s", "--models-dir", "m", "--allow-path", "a")
    assert made.state_dir == tmp_path / "s"
    assert made.models_dir == tmp_path / "m"
    assert made.allowed_paths == (tmp_path / "a",)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--framing", "xml"],
        ["--max-message-bytes", "0"],
        ["--max-message-bytes", "many"],
        ["--drain-ms", "-1"],
        ["--log-level", "loud"],
        ["--parent-pid", "me"],
        ["--parent-pid", "0"],
        ["--parent-pid", "-1"],
        ["--parent-pid", str(10**12)],
        ["--nonsense"],
        ["surplus"],
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        served(*arguments)
    assert caught.value.code == 2
    assert "usage: car-rpc" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("car-rpc ")


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["generate", "hi", "--max-tokens", "5", "--thinking", "off"], "generate"),
        (["models"], "models"),
        (["models", "--all"], "models"),
        (["models", "explain", "hi", "--model", "m", "--json"], "models"),
        (["doctor"], "doctor"),
        (["log", "--trace", "tr_1", "--limit", "3", "--json"], "log"),
        (["call", "models.list"], "call"),
        (["call", "generate", "{}", "--allow-path", "pictures"], "call"),
        (["schema"], "schema"),
        ([], None),
    ],
)
def test_every_command_is_known(arguments: list[str], command: str | None) -> None:
    assert make_parser().parse_args(arguments).command == command


def test_options_count_before_and_behind_the_word_explain() -> None:
    parse = make_parser().parse_args
    before = parse(["models", "--state-dir", "s", "--all", "explain", "hi"])
    behind = parse(["models", "explain", "hi", "--all", "--state-dir", "s"])
    for options in (before, behind):
        assert (options.models_command, options.prompt) == ("explain", "hi")
        assert (options.state_dir, options.all, options.config) == (Path("s"), True, None)
    plain = parse(["models"])
    assert (plain.models_command, plain.all, plain.state_dir) == (None, False, None)


@pytest.mark.parametrize(
    ("value", "home"),
    [("/x", "/x"), ("~/y", f"{Path.home()}/y"), ("", f"{Path.home()}/.car"), ("  ", None)],
)
def test_car_home_is_taken_from_the_environment(value: str, home: str | None) -> None:
    assert str(car_home({"CAR_HOME": value})) == (home or f"{Path.home()}/.car")
    assert car_home({}) == Path.home() / ".car"


# The doctor


NOT_HERE = BackendInfo(available=False)
FOUND = ModelsSearchResult(models=[], templates=[], machine=Machine())
COUNTS = ModelCounts(
    total=90, available=2, local=80, remote=10, local_available=2, remote_available=0
)
HEALTH = ModelsHealthResult(
    counts=COUNTS,
    defaults=[],
    providers=[],
    capabilities=[],
    models=[],
    routing=RoutingConfig(),
    routing_scenarios=[],
    benchmark_priors=[],
)


def described(
    *models: ModelSchema,
    llama: BackendInfo,
    mlx: BackendInfo = NOT_HERE,
    mlx_first: bool = False,
    found: ModelsSearchResult = FOUND,
    health: ModelsHealthResult = HEALTH,
    models_dir: Path = Path("/nowhere"),
    version: str = __version__,
) -> str:
    server = InitializeResult(
        protocol_version=1,
        spec=SpecVersion(major=1, minor=0, hash="h"),
        server_info=PeerInfo(name="car-rpc", version=version),
        session_id="ses_1",
        capabilities=ServerCapabilities(
            methods=[],
            backends={"local": llama, "mlx": mlx, "new": BackendInfo(available=True)},
            limits=Limits(
                max_message_bytes=1,
                max_depth=1,
                max_in_flight=1,
                runner_buffer_bytes=1,
                max_batch=1,
            ),
        ),
    )
    heard = Heard(server, models, found, health)
    return "\n".join(report(heard, Path("/state"), models_dir, mlx_first=mlx_first))


def model(model_id: str, *, available: bool, ready: bool, demo: bool = False) -> ModelSchema:
    return msgspec.structs.replace(
        scripted_model(model_id, []),
        available=available,
        weights_ready=ready,
        tags=["demo"] if demo else [],
    )


def test_the_doctor_says_what_is_missing_and_where_the_state_is() -> None:
    text = described(
        model("a/fine:1", available=True, ready=True),
        model("a/engine:1", available=False, ready=True),
        model("a/file:1", available=False, ready=False),
        llama=BackendInfo(available=False, reason="install the extra"),
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "local missing: install the extra - llama.cpp, for GGUF models" in lines
    assert "a/fine:1 ok" in lines
    assert "a/engine:1 its engine is missing" in lines
    assert "a/file:1 its file is missing" in lines
    assert any(line.startswith("state /state ") for line in lines)
    assert "models.register" not in text


def test_the_doctor_says_when_weights_cannot_be_looked_for(tmp_path: Path) -> None:
    engine = BackendInfo(available=True)
    fine = described(llama=engine, models_dir=tmp_path)
    assert f"  weights      {tmp_path}" in fine.splitlines()
    assert "not there, which is fine" in described(llama=engine, models_dir=tmp_path / "none")
    (tmp_path / "file").touch()
    text = described(llama=engine, models_dir=tmp_path / "file")
    assert "file cannot be read: Not a directory; --models-dir names another" in text


def test_the_doctor_says_when_another_version_serves() -> None:
    engine = BackendInfo(available=True)
    assert "car-rpc 0.0.7 serves, which is not the one" in described(llama=engine, version="0.0.7")
    assert "serves" not in described(llama=engine)


def test_the_doctor_shows_the_health_in_short() -> None:
    key, team = (
        CredentialHealth(name="A_KEY", is_set=False),
        CredentialHealth(name="T", is_set=None),
    )
    acme = ProviderHealth(
        provider="acme", configured=False, credentials=[key, team], models=COUNTS, capabilities=[]
    )
    nobody = RoutingScenario(
        name="interactive_vision",
        workload="interactive",
        has_tools=False,
        has_vision=True,
        quality_first_cold_start=True,
        why_none="no eyes",
    )
    seeing = CapabilityHealth(capability="vision", models=COUNTS)
    health = msgspec.structs.replace(
        HEALTH, providers=[acme], capabilities=[seeing], routing_scenarios=[nobody]
    )
    text = described(llama=BackendInfo(available=True), health=health)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "models 2 of 90 available" in lines
    assert "acme not set: A_KEY" in lines
    assert "interactive vision nobody: no eyes" in lines
    blind = msgspec.structs.replace(health, capabilities=[])
    text = described(llama=BackendInfo(available=True), health=blind)
    assert "nobody: no model here reads images; car-rpc call models.search" in text


def test_with_nothing_but_toys_the_doctor_says_how_to_get_a_real_model() -> None:
    demo = model("demo/a:1", available=True, ready=True, demo=True)
    text = described(demo, llama=BackendInfo(available=True))
    assert "car-rpc call models.register" in text
    assert "local        ok" in text


def test_speech_that_is_installed_does_not_replace_a_real_model() -> None:
    demo = model("demo/a:1", available=True, ready=True, demo=True)
    speech = msgspec.structs.replace(
        model("system/hear:1", available=True, ready=True), capabilities=["speech_to_text"]
    )
    assert "models.register" in described(demo, speech, llama=BackendInfo(available=True))


@pytest.mark.parametrize(("mlx_first", "engine"), [(True, "mlx"), (False, "local")])
def test_with_two_engines_for_a_model_the_doctor_says_which_one_runs_it(
    mlx_first: bool, engine: str
) -> None:
    here = BackendInfo(available=True)
    assert f"default      {engine}, where" in described(llama=here, mlx=here, mlx_first=mlx_first)
    assert "default" not in described(llama=here, mlx_first=mlx_first)


def test_the_doctor_describes_the_machine_and_what_suits_it() -> None:
    gib = 1024**3
    cards = [
        Accelerator(kind="cuda", name="A card", memory_total_bytes=8 * gib),
        Accelerator(kind="metal"),
    ]
    machine = Machine(
        memory_total_bytes=16 * gib,
        memory_available_bytes=4 * gib,
        cores_physical=4,
        cores_logical=8,
        cores_usable=2,
        accelerators=cards,
    )
    best = msgspec.structs.replace(
        model("q/best:1", available=False, ready=False),
        source=LocalSource(hf_repo="q/Best-GGUF", hf_filename="best.gguf"),
        trust_tier="curated",
    )
    found = ModelsSearchResult(models=[best], templates=[], machine=machine, recommended="q/best:1")
    text = described(best, llama=BackendInfo(available=True), found=found)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "memory 16.0 GiB for this process and its models, 4.0 GiB of it free" in lines
    assert "processor 2 of 8 threads usable, 4 cores" in lines
    assert "cuda A card, 8.0 GiB" in lines
    assert "metal a graphics processor" in lines
    assert "car-rpc models pull q/best:1" in lines
    assert not any(line.startswith("q/best:1 ") for line in lines), "the catalog is long"
    here = msgspec.structs.replace(best, weights_ready=True, available=True)
    found = msgspec.structs.replace(found, models=[here])
    text = described(here, llama=BackendInfo(available=True), found=found)
    assert "models pull" not in text
    assert "q/best:1" in text


def test_what_stands_before_a_command_of_the_log_holds_for_it_too(tmp_path: Path) -> None:
    parse = make_parser().parse_args
    before = parse(["log", "--state-dir", str(tmp_path), "--trace", "tr_1", "export"])
    assert (before.state_dir, before.trace, before.log_command) == (tmp_path, "tr_1", "export")
    after = parse(["log", "export", "--state-dir", str(tmp_path), "--trace", "tr_1"])
    assert (after.state_dir, after.trace) == (tmp_path, "tr_1")


def test_a_purge_says_what_is_to_go() -> None:
    parse = make_parser().parse_args
    for wrong in ([], ["--trace", "a", "--conversation", "b"]):
        with pytest.raises(SystemExit):
            parse(["log", "purge", *wrong])
    assert parse(["log", "purge", "--conversation", "b"]).conversation == "b"
