"""What servers answer when they are asked for their models, as their documentation shows it."""

from __future__ import annotations

import json
from typing import Any

from tests.servers.scripted import Reply


def as_json(document: Any, **headers: str) -> Reply:
    """A reply with status 200."""
    return Reply([json.dumps(document)], media_type="application/json", headers=headers)


NOT_FOUND = Reply(["404 page not found"], status=404, media_type="text/plain")

#: https://docs.ollama.com/api/tags, with a name that has a tag and one of an embedding model.
OLLAMA_TAGS = {
    "models": [
        {
            "name": "gemma3:4b",
            "model": "gemma3:4b",
            "modified_at": "2025-10-03T23:34:03.409490317-07:00",
            "size": 3338801804,
            "digest": "a2af6cc3eb7fa8be8504abaf9b04e88f17a119ec3f04a3addf55f92841195f5a",
            "details": {
                "format": "gguf",
                "family": "gemma",
                "families": ["gemma"],
                "parameter_size": "4.3B",
                "quantization_level": "Q4_K_M",
            },
        },
        {
            "name": "nomic-embed-text",
            "model": "nomic-embed-text",
            "modified_at": "2025-10-03T23:34:03.409490317-07:00",
            "size": 274302450,
            "digest": "0a109f422b47e3a30ba2b10eca18548e944e8a23073ee3f3e947efcf3c45e59f",
            "details": {
                "format": "gguf",
                "family": "nomic-bert",
                "families": ["nomic-bert"],
                "parameter_size": "137M",
                "quantization_level": "F16",
            },
        },
    ]
}

#: Ollama, openai/openai.go, `ToListCompletion`: the owner is the namespace of the name.
OLLAMA = {
    "/v1/models": as_json(
        {
            "object": "list",
            "data": [
                {"id": "gemma3:4b", "object": "model", "created": 1, "owned_by": "library"},
                {"id": "nomic-embed-text", "object": "model", "created": 1, "owned_by": "library"},
            ],
        }
    ),
    "/api/tags": as_json(OLLAMA_TAGS),
}

#: https://lmstudio.ai/docs/developer/rest/endpoints
LM_STUDIO_MODELS = {
    "object": "list",
    "data": [
        {
            "id": "qwen2-vl-7b-instruct",
            "object": "model",
            "type": "vlm",
            "publisher": "mlx-community",
            "arch": "qwen2_vl",
            "compatibility_type": "mlx",
            "quantization": "4bit",
            "state": "not-loaded",
            "max_context_length": 32768,
        },
        {
            "id": "qwen/qwen3-coder-30b",
            "object": "model",
            "type": "llm",
            "publisher": "lmstudio-community",
            "arch": "qwen3moe",
            "compatibility_type": "gguf",
            "quantization": "Q4_K_M",
            "state": "loaded",
            "max_context_length": 262144,
            "loaded_context_length": 8192,
        },
        {
            "id": "text-embedding-nomic-embed-text-v1.5",
            "object": "model",
            "type": "embeddings",
            "publisher": "nomic-ai",
            "arch": "nomic-bert",
            "compatibility_type": "gguf",
            "quantization": "Q4_0",
            "state": "not-loaded",
            "max_context_length": 2048,
        },
    ],
}

#: It answers what it does not know with status 200, too.
LM_STUDIO = {
    "/v1/models": as_json(
        {
            "data": [
                {"id": model["id"], "object": "model", "owned_by": "organization_owner"}
                for model in LM_STUDIO_MODELS["data"]
            ],
            "object": "list",
        }
    ),
    "/api/v0/models": as_json(LM_STUDIO_MODELS),
    "/api/tags": as_json({"error": "Unexpected endpoint or method. (GET /api/tags)"}),
}

#: llama.cpp, tools/server/README.md, `GET /v1/models` and `GET /props`; it knows `/api/tags`, too.
LLAMA_SERVER = {
    "/v1/models": as_json(
        {
            "object": "list",
            "data": [
                {
                    "id": "../models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
                    "object": "model",
                    "created": 1735142223,
                    "owned_by": "llamacpp",
                    "meta": {"vocab_type": 2, "n_vocab": 128256, "n_ctx_train": 131072},
                }
            ],
        }
    ),
    "/props": as_json(
        {
            "default_generation_settings": {"id": 0, "n_ctx": 1024, "params": {}},
            "total_slots": 1,
            "model_path": "../models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
            "chat_template": "...",
            "modalities": {"vision": True},
            "build_info": "b(build number)-(build commit hash)",
        }
    ),
    "/api/tags": as_json(OLLAMA_TAGS),
}

#: vLLM, vllm/entrypoints/openai: `ModelCard`.
VLLM = {
    "/v1/models": as_json(
        {
            "object": "list",
            "data": [
                {
                    "id": "meta-llama/Llama-3.1-8B-Instruct",
                    "object": "model",
                    "created": 1735142223,
                    "owned_by": "vllm",
                    "root": "meta-llama/Llama-3.1-8B-Instruct",
                    "parent": None,
                    "max_model_len": 131072,
                    "permission": [{"id": "modelperm-1", "object": "model_permission"}],
                }
            ],
        },
        server="uvicorn",
    )
}

#: vllm-mlx, vllm_mlx/api/models.py: `ModelInfo`.
VLLM_MLX = {
    "/v1/models": as_json(
        {
            "object": "list",
            "data": [
                {
                    "id": "mlx-community/Llama-3.2-3B-Instruct-4bit",
                    "object": "model",
                    "created": 1735142223,
                    "owned_by": "vllm-mlx",
                }
            ],
        },
        server="uvicorn",
    )
}
