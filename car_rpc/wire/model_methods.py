"""The rows of the method table that list, add and remove models."""

from __future__ import annotations

from car_rpc.wire import lifecycle, models, pulls, residency, search
from car_rpc.wire.method import Method

MODEL_METHODS: dict[str, Method] = {
    "models.list": Method(
        "Lists models.", models.ModelsListParams, models.ModelsListResult, inline=True
    ),
    "models.get": Method(
        "Looks up one model.", models.ModelParams, models.ModelResult, inline=True
    ),
    "models.search": Method(
        "Finds models, those of the built-in catalog included, and says which fit this machine.",
        search.ModelsSearchParams,
        search.ModelsSearchResult,
    ),
    "models.upgrades": Method(
        "Lists newer versions of the models whose weights are on this machine.",
        lifecycle.EmptyParams,
        search.ModelsUpgradesResult,
    ),
    "models.register": Method(
        "Adds a model, or replaces the one that was registered with its id.",
        models.ModelsRegisterParams,
        models.ModelsRegisterResult,
        logged=True,
    ),
    "models.unregister": Method(
        "Removes a model that was registered; its files stay.",
        models.ModelParams,
        models.ModelsUnregisterResult,
        logged=True,
    ),
    "models.pull": Method(
        "Downloads the weights of a model, or goes on where a cancelled download stopped.",
        pulls.ModelsPullParams,
        pulls.ModelsPullResult,
        logged=True,
    ),
    "models.remove": Method(
        "Deletes the weights of a model from this machine.",
        models.ModelParams,
        pulls.ModelsRemoveResult,
        logged=True,
    ),
    "models.load": Method(
        "Loads a model before it is needed.",
        residency.ModelsLoadParams,
        residency.ModelsLoadResult,
        logged=True,
    ),
    "models.unload": Method(
        "Takes a model out of memory.",
        models.ModelParams,
        residency.ModelsUnloadResult,
        logged=True,
    ),
    "models.warm_up": Method(
        "Loads several models, one after the other, and says of each whether it is ready.",
        residency.ModelsWarmUpParams,
        residency.ModelsWarmUpResult,
        logged=True,
    ),
    "models.discover": Method(
        "Looks for servers with models on this machine and makes their models known.",
        models.ModelsDiscoverParams,
        models.ModelsDiscoverResult,
        logged=True,
    ),
}
