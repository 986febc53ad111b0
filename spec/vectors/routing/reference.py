"""A second writing of spec/ROUTING.md, from its prose alone: JSON in, JSON out, no car_rpc.

It shows that the prose is enough, and what a port to another language has to come to. Run it to
check the decisions in cases.json and homes.json, with ``--write`` to make them anew.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]

DEFAULTS: Json = {
    "mode": "auto",
    "min_observations": 5,
    "prefer_local": True,
    "prior_strength": 2.0,
    "quality_first_cold_start": True,
    "bootstrap_min_task_observations": 10,
    "bootstrap_quality_floor": 0.75,
    "quality_floor": 0.3,
    "explore_interactive": False,
    "min_trust_tier": "community",
}
MODES = {"auto": [0.45, 0.40, 0.15], "fast": [0.15, 0.35, 0.50], "best": [0.70, 0.20, 0.10]}
MEDIA = {"image": 1024, "audio": 1500, "video": 8192, "document": 3072}
SENSES = {"image": "vision", "audio": "audio_understanding", "video": "video_understanding"}
LOCAL = {"local", "mlx", "system", "fake"}
HOME = re.compile(r"https?://(localhost|127\.\d+\.\d+\.\d+|\[::1\])([:/]|$)", re.IGNORECASE)
SIZE = re.compile(r"(\d+x)?(\d+(?:\.\d+)?)([KMBT])", re.IGNORECASE)
UNITS = {"K": 1e-6, "M": 1e-3, "B": 1.0, "T": 1e3}
ALL = 2**64
EQUAL = 1e-9
NUMBERS = (
    "score", "reliability", "quality", "latency", "cost", "latency_ms", "cost_usd",
)  # fmt: skip


# 1. What goes in


def tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / 4)


def json_tokens(value: Any) -> int:
    return tokens(json.dumps(value, separators=(",", ":"), ensure_ascii=False))


def content_tokens(content: str | list[Json]) -> int:
    if isinstance(content, str):
        return tokens(content)
    count = 0
    for block in content:
        kind = block["type"]
        if kind in ("text", "thinking"):
            count += tokens(block[kind])
        elif kind == "tool_use":
            count += tokens(block["name"]) + json_tokens(block["input"])
        elif kind == "tool_result":
            count += content_tokens(block["content"])
        else:
            count += MEDIA[kind]
    return count


def prompt_tokens(request: Json) -> int:
    count = 0
    for member in ("prompt", "context"):
        if request.get(member):
            count += 4 + tokens(request[member])
    for message in request.get("messages", []):
        count += 4 + content_tokens(message.get("content", ""))
        count += tokens(message.get("reasoning", ""))
        for call in message.get("tool_calls", []):
            count += tokens(call["name"]) + json_tokens(call["arguments"])
    count += content_tokens(request.get("images", []))
    return count + sum(json_tokens(tool) for tool in request.get("tools", []))


def block_needs(blocks: str | list[Json]) -> set[str]:
    needs: set[str] = set()
    if isinstance(blocks, str):
        return needs
    for block in blocks:
        if block["type"] in SENSES:
            needs.add(SENSES[block["type"]])
        if block["type"] in ("tool_use", "tool_result"):
            needs.add("tool_use")
            needs |= block_needs(block.get("content", ""))
    return needs


def needs_of(request: Json) -> list[str]:
    needs = {"generate", *request.get("intent", {}).get("require", [])}
    if "tools" in request:
        needs.add("tool_use")
    needs |= block_needs(request.get("images", []))
    for message in request.get("messages", []):
        if message["role"] == "tool" or message.get("tool_calls"):
            needs.add("tool_use")
        needs |= block_needs(message.get("content", ""))
    return sorted(needs)


def task_of(intent: Json, complexity: str) -> str:
    if "task" in intent:
        return intent["task"] if intent["task"] in ("code", "reasoning", "classify") else "generate"
    return {"code": "code", "complex": "reasoning"}.get(complexity, "generate")


# 3. Quality


def mix(k: float, prior: float, mean: float, n: int) -> float:
    m = min(n, 9)
    return (k * prior + m * mean) / (k + m)


def declared_quality(model: Json, task: str) -> float:
    quality = 0.5
    size = SIZE.match(model.get("param_count", ""))
    if size:
        factor = int(size[1][:-1]) if size[1] else 1
        billions = factor * float(size[2]) * UNITS[size[3].upper()]
        quality = min(0.8, 0.3 + 0.1 * math.log2(1 + billions))
    if task in ("code", "reasoning", "classify") and task in model["capabilities"]:
        quality += 0.05
    return quality


def believe(row: Json, task: str, k: float) -> None:
    profile = row["profile"]
    overall = declared_quality(row["model"], task)
    if profile is not None:
        ema, total = profile.get("ema_quality", 0.5), profile.get("total_calls", 0)
        overall = mix(k, overall, ema, total) if total else ema
    stats = (profile or {}).get("task_stats", {}).get(task)
    n = stats.get("calls", 0) if stats else 0
    ema = stats.get("ema_quality", 0.5) if stats else 0.0
    prior = ema if stats and not n else overall
    m = min(n, 9)
    alpha, beta = k * prior + m * ema, k * (1 - prior) + m * (1 - ema)
    quality = alpha / (alpha + beta)
    successes = stats.get("success_count", 0) if stats else 0
    row.update(
        n=n,
        alpha=alpha,
        beta=beta,
        quality=quality,
        spread=math.sqrt(quality * (1 - quality) / (alpha + beta + 1)),
        reliability=(successes + k * prior) / (n + k),
    )


# 4. Latency, 5. Cost


def mean_ms(stats: Json | None) -> float | None:
    if not stats or not stats.get("success_count"):
        return None
    return stats["total_latency_ms"] / stats["success_count"]


def latency_ms(row: Json, task: str, ask: Json, config: Json) -> float | None:
    speed = row["model"].get("performance", {})
    if ask["workload"] == "fast" and "ttft_p50_ms" in speed:
        return speed["ttft_p50_ms"]
    profile = row["profile"] or {}
    seen = [profile.get("task_stats", {}).get(task) or {}, profile]
    for stats in seen:
        if stats.get("success_count", 0) >= config["min_observations"]:
            return mean_ms(stats)
    if "latency_p50_ms" in speed:
        return speed["latency_p50_ms"]
    if speed.get("tokens_per_second"):
        return speed.get("ttft_p50_ms", 0) + 1000 * ask["output"] / speed["tokens_per_second"]
    return next((mean for mean in map(mean_ms, seen) if mean is not None), None)


def is_local(source: Json) -> bool:
    if source["type"] == "ollama":
        return HOME.match(source.get("host", "http://127.0.0.1:11434")) is not None
    if source["type"] in ("openai_compat", "vllm_mlx"):
        return HOME.match(source["endpoint"]) is not None
    return source["type"] in LOCAL


def cost_usd(row: Json, ask: Json) -> float | None:
    prices = dict(row["model"].get("cost", {}))
    tiers = [t for t in prices.get("pricing_tiers", []) if t["min_prompt_tokens"] <= ask["input"]]
    if tiers:
        prices |= max(tiers, key=lambda tier: tier["min_prompt_tokens"])
    into, out = prices.get("input_per_mtok_usd"), prices.get("output_per_mtok_usd")
    if into is not None and out is not None:
        return (ask["input"] * into + ask["output"] * out) / 1000000
    return 0.0 if into is None and out is None and row["local"] else None


# 2. Filter


def refusal(row: Json, needs: list[str], config: Json) -> str | None:
    able = {*row["model"]["capabilities"]}
    able |= {"vision"} if "grounding" in able else set()
    lacking = [need for need in needs if need not in able]
    tiers = ["community", "curated"]
    tier = tiers.index(row["model"].get("trust_tier", "community"))
    limited, usd, ms = "max_cost_usd" in config, row["cost_usd"], row["latency_ms"]
    reasons = {
        f"lacks {lacking[0] if lacking else ''}": bool(lacking),
        row.get("refusal", ""): "refusal" in row,
        "not available": not row["available"],
        "does not fit in memory": not row["fits"],
        "below min_trust_tier": tier < tiers.index(config["min_trust_tier"]),
        "price unknown, and max_cost_usd is set": limited and usd is None,
        "costs more than max_cost_usd": limited and (usd or 0) > config["max_cost_usd"],
        "slower than max_latency_ms": (ms or 0) > config.get("max_latency_ms", math.inf),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def wishes(rows: list[Json], ask: Json, intent: Json) -> list[Json]:
    excluded = intent.get("exclude_models", [])

    def too_short(row: Json) -> bool:
        window = row["model"].get("context_length", 0)
        return window != 0 and window < ask["input"]

    for reason, unwanted in (
        ("demo model: used when there is no other", lambda r: r["provider"] == "demo"),
        ("excluded by the request", lambda r: r["id"] in excluded or r["name"] in excluded),
        ("context too short for the prompt", too_short),
        ("circuit breaker open", lambda r: r["breaker_open"]),
    ):
        kept = [row for row in rows if not unwanted(row)]
        if kept:
            for row in rows:
                if unwanted(row):
                    row["why_not"] = reason
            rows = kept
    return rows


# 6. Score


def weights_of(config: Json, ask: Json, intent: Json, complexity: str, first: bool) -> list[float]:
    if intent.get("high_stakes"):
        return [0.9, 0.05, 0.05]
    weights = list(MODES[config["mode"]])
    if "quality_weight" in config:
        weights = [config[f"{part}_weight"] for part in ("quality", "latency", "cost")]
    if first:
        weights = list(MODES["best"])
    weights[1] *= {"fast": 3, "background": 0.25, "batch": 0.25}.get(ask["workload"], 1)
    weights[1] *= 2 if intent.get("prefer_fast") else 1
    weights[0] *= 2 if intent.get("prefer_quality") else 1
    weights[0] *= {"simple": 0.5, "code": 1.5, "complex": 1.5}.get(complexity, 1)
    total = weights[0] + weights[1] + weights[2]
    return [weight / total for weight in weights]


# 8. Randomness


class Random:
    def __init__(self, seed: int) -> None:
        self.state = seed % ALL

    def unit(self) -> float:
        self.state = (self.state + 0x9E3779B97F4A7C15) % ALL
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % ALL
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % ALL
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def fnv1a64(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % ALL
    return value


def grid(row: Json) -> list[tuple[float, float]]:
    points = [(i + 0.5) / 64 for i in range(64)]
    a, b = row["alpha"] - 1, row["beta"] - 1
    weights = [math.exp(a * math.log(x) + b * math.log(1 - x)) for x in points]
    return [(x, weight / sum(weights)) for x, weight in zip(points, weights, strict=True)]


def draw(points: list[tuple[float, float]], unit: float) -> float:
    so_far = 0.0
    for x, probability in points:
        so_far += probability
        if so_far > unit:
            return x
    return points[-1][0]


# 7. Select


def thompson(contenders: list[Json], weight: float, seed: int) -> tuple[Json, float]:
    random = Random(seed)
    grids = [grid(row) for row in contenders]

    def value(index: int, x: float) -> float:
        return contenders[index]["score"] + weight * (x - contenders[index]["quality"])

    drawn = [value(i, draw(points, random.unit())) for i, points in enumerate(grids)]
    chosen = next(i for i, v in enumerate(drawn) if v >= max(drawn) - EQUAL)
    propensity = 0.0
    for x, probability in grids[chosen]:
        chance = probability
        mine = value(chosen, x)
        for i, points in enumerate(grids):
            if i != chosen:
                highest = mine + (EQUAL if i > chosen else -EQUAL)
                chance *= sum(p for y, p in points if value(i, y) <= highest)
        propensity += chance
    return contenders[chosen], propensity


def ranked(
    kept: list[Json], config: Json, ask: Json, intent: Json, first: bool
) -> tuple[list[Json], bool]:
    """The ranking, with each q and the band, and whether the request explores."""
    explores = (
        not intent.get("high_stakes")
        and ask["weights"][0] > 0
        and (config["explore_interactive"] or ask["workload"] not in ("interactive", "fast"))
    )
    for row in kept:
        row["q"] = min(1, row["quality"] + row["spread"]) if explores else row["quality"]
    best = max(row["q"] for row in kept)
    floor = config["bootstrap_quality_floor"] if first else config["quality_floor"]
    if intent.get("high_stakes") or best < floor:
        floor = best - 0.1
    for row in kept:
        row["in_band"] = row["q"] >= floor
    return sorted(kept, key=lambda row: (not row["in_band"], -row["score"])), explores


def facts(case: Json, task: str, ask: Json, config: Json) -> list[Json]:
    """The candidates, with all that sections 3 to 5 say of them."""
    half = 500 if ask["workload"] == "fast" else 2000
    rows: list[Json] = []
    for given in case["candidates"]:
        row = {"profile": None, "available": True, "fits": True, "breaker_open": False, **given}
        model = row["model"]
        provider, _, rest = model["id"].partition("/")
        row["id"], row["local"] = model["id"], is_local(model["source"])
        row["provider"] = model.get("provider") or provider
        row["name"] = model.get("name") or rest.rpartition(":")[0]
        believe(row, task, config["prior_strength"])
        row["latency_ms"] = latency_ms(row, task, ask, config)
        row["latency"] = 0.5 if row["latency_ms"] is None else half / (half + row["latency_ms"])
        row["cost_usd"] = cost_usd(row, ask)
        row["cost"] = 0.5 if row["cost_usd"] is None else 0.01 / (0.01 + row["cost_usd"])
        row["in_band"] = False
        rows.append(row)
    return rows


def decide(case: Json) -> Json:
    """The decision of a case."""
    request, complexity = case["request"], case["complexity"]
    config = DEFAULTS | case.get("config", {})
    intent, params = request.get("intent", {}), request.get("params", {})
    task = task_of(intent, complexity)
    ask = {
        "input": prompt_tokens(request),
        "output": params.get("max_tokens", 1024),
        "workload": params.get("workload", "interactive"),
    }
    rows = facts(case, task, ask, config)
    for row in rows:
        row["why_not"] = refusal(row, needs_of(request), config)
    passed = [row for row in rows if row["why_not"] is None]
    if not passed:
        return {"error": "model_not_found", "why_not": {row["id"]: row["why_not"] for row in rows}}
    refused = [row for row in rows if row["why_not"] is not None]
    kept = wishes(passed, ask, intent)
    first = (
        config["quality_first_cold_start"]
        and ask["workload"] == "interactive"
        and not intent.get("prefer_fast")
        and not intent.get("prefer_local")
        and sum(row["n"] for row in kept) < config["bootstrap_min_task_observations"]
    )
    weights = ask["weights"] = weights_of(config, ask, intent, complexity, first)
    bonus = 0.0
    if not intent.get("high_stakes"):
        bonus += 0.05 if config["prefer_local"] else 0
        bonus += 0.25 if intent.get("prefer_local") or ask["workload"] == "local_preferred" else 0
    for row in rows:
        parts = (row["quality"], row["latency"], row["cost"])
        row["score"] = sum(w * part for w, part in zip(weights, parts, strict=True))
        row["score"] += bonus if row["local"] else 0
    ranking, explores = ranked(kept, config, ask, intent, first)
    chosen, propensity, contenders = ranking[0], 1.0, []
    if explores:
        inside = [row for row in kept if row["in_band"]]
        inside.sort(key=lambda row: -(row["score"] + weights[0] * row["spread"]))
        contenders = inside[:8]
        chosen, propensity = thompson(contenders, weights[0], case["seed"])
    left_out = [row for row in passed if row not in kept]
    return {
        "model_id": chosen["id"],
        "model_name": chosen["name"],
        "task": task,
        "complexity": complexity,
        **why(chosen, ranking, task, config, len(contenders)),
        "predicted_quality": chosen["quality"],
        "fallbacks": [row["id"] for row in ranking if row is not chosen],
        "context_length": chosen["model"].get("context_length", 0),
        "needs_compaction": 0 < chosen["model"].get("context_length", 0) < ask["input"],
        "propensity": propensity,
        "input_tokens": ask["input"],
        "output_tokens": ask["output"],
        "candidates": shown(chosen, ranking, left_out + refused),
    }


def why(chosen: Json, ranking: list[Json], task: str, config: Json, contenders: int) -> Json:
    known = chosen["n"] >= config["min_observations"]
    strategy = "profile_based" if known else "schema_based"
    reason = f"best score for {task} of {len(ranking)} candidates"
    if chosen is not ranking[0]:
        strategy, reason = "exploration", f"exploring {task} among {contenders} contenders"
    if len(ranking) == 1:
        reason = f"the only candidate for {task}"
    return {"strategy": strategy, "reason": reason}


def shown(chosen: Json, ranking: list[Json], left_out: list[Json]) -> list[Json]:
    others = [row for row in ranking if row is not chosen]
    for row in others:
        if not row["in_band"]:
            row["why_not"] = "below the quality floor"
        elif row["score"] > chosen["score"]:
            row["why_not"] = "another model is being explored"
        else:
            row["why_not"] = "lower score"
    candidates = []
    for row in [chosen, *others, *left_out]:
        candidate = {"model_id": row["id"], "selected": row is chosen, "in_band": row["in_band"]}
        candidate |= {member: row[member] for member in NUMBERS}
        candidates.append(candidate if row is chosen else candidate | {"why_not": row["why_not"]})
    return candidates


# 9. Pools


def home_order(key: str, members: list[Json]) -> list[str]:
    """The home of a key in a pool with deterministic homes, and where it goes from there."""

    def score(member: Json) -> float:
        hashed = fnv1a64(key.encode() + b"\0" + member["model_id"].encode())
        return member.get("weight", 1.0) / -math.log((hashed + 1) / (ALL + 1))

    def order(member: Json) -> tuple[bool, float]:
        spare = member.get("role") == "failover_only"
        return (spare, 0 if spare else -score(member))

    return [member["model_id"] for member in sorted(members, key=order)]


# The files


def pretty(value: Any, indent: str = "\n") -> str:
    """JSON with a line for whatever is short."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) < 240 or not isinstance(value, list | dict):
        return line
    deeper = indent + " "
    if isinstance(value, list):
        return "[" + ",".join(deeper + pretty(item, deeper) for item in value) + indent + "]"
    members = (f"{json.dumps(name)}: {pretty(item, deeper)}" for name, item in value.items())
    return "{" + ",".join(deeper + member for member in members) + indent + "}"


def check(name: str, solve: Any, *, write: bool) -> None:
    path = Path(__file__).parent / name
    document = json.loads(path.read_text(encoding="utf-8"))
    for case in document["cases"]:
        found = solve(document, case)
        if write:
            case["is"] = found
        elif json.loads(json.dumps(found)) != case["is"]:
            sys.exit(f"{name}: {case['name']}: {json.dumps(found)}")
    if write:
        path.write_text(pretty(document) + "\n", encoding="utf-8")


def solve_case(document: Json, case: Json) -> Json:
    models = document["models"]
    named = [{**row, "model": models[row["model"]]} for row in case["candidates"]]
    return decide({**case, "candidates": named})


def solve_home(_: Json, case: Json) -> list[str]:
    return home_order(case["key"], case["members"])


if __name__ == "__main__":
    check("cases.json", solve_case, write="--write" in sys.argv)
    check("homes.json", solve_home, write="--write" in sys.argv)
