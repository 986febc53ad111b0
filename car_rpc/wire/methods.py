"""The one method table. The dispatcher, the specification and the bindings are made from it."""

from __future__ import annotations

from car_rpc.wire import (
    admission,
    health,
    inference,
    keys,
    lifecycle,
    log,
    outcomes,
    policy,
    replay,
    routing,
    runner,
    speech,
    spend,
    tasks,
)
from car_rpc.wire.method import Method
from car_rpc.wire.model_methods import MODEL_METHODS

#: What runs models. Whatever else the event log holds changes the state that these work on.
RUNS_MODELS = frozenset({"classify", "embed", "generate", "ground", "rerank", "transcribe"})

METHODS: dict[str, Method] = {
    "initialize": Method(
        "Introduces both sides; must come first.",
        lifecycle.InitializeParams,
        lifecycle.InitializeResult,
        inline=True,
    ),
    "ping": Method(
        "Asks whether the other side is alive; allowed before `initialize`.",
        lifecycle.EmptyParams,
        lifecycle.PingResult,
        direction="both",
        inline=True,
    ),
    "shutdown": Method(
        "Refuses new work, lets requests in flight finish for a while, cancels the rest.",
        lifecycle.EmptyParams,
    ),
    "exit": Method(
        "Ends the process: exit code 0 after `shutdown`, else 1.",
        lifecycle.EmptyParams,
        kind="notification",
        inline=True,
    ),
    "$/cancelRequest": Method(
        "Cancels a request of the sender, which is still answered once.",
        lifecycle.CancelParams,
        kind="notification",
        direction="both",
        inline=True,
    ),
    "$/progress": Method(
        "Tells how far a request is that carried a `progress_token`.",
        lifecycle.ProgressParams,
        kind="notification",
        direction="core_to_client",
    ),
    "log": Method(
        "Carries a line of the process's log, if the client asked for it.",
        lifecycle.LogParams,
        kind="notification",
        direction="core_to_client",
    ),
    "generate": Method(
        "Generates an answer, also as a stream of events.",
        inference.GenerateRequest,
        inference.InferenceResult,
        logged=True,
        stream="generate.event",
    ),
    "generate.event": Method(
        "Carries one event of a stream.",
        inference.GenerateEventParams,
        kind="notification",
        direction="core_to_client",
    ),
    "embed": Method(
        "Turns texts into vectors.", inference.EmbedParams, inference.EmbedResult, logged=True
    ),
    "tokenize": Method(
        "Turns a text into the token ids of a model.",
        inference.TokenizeParams,
        inference.TokenizeResult,
    ),
    "detokenize": Method(
        "Turns token ids of a model into text.",
        inference.DetokenizeParams,
        inference.DetokenizeResult,
    ),
    "classify": Method(
        "Says which of some labels fit a text.",
        tasks.ClassifyParams,
        tasks.ClassifyResult,
        logged=True,
    ),
    "rerank": Method(
        "Orders documents by how well they fit a query.",
        tasks.RerankParams,
        tasks.RerankResult,
        logged=True,
    ),
    "ground": Method(
        "Finds things in an image.", tasks.GroundParams, tasks.GroundResult, logged=True
    ),
    "transcribe": Method(
        "Writes down what is said in a recording.",
        speech.TranscribeParams,
        speech.TranscribeResult,
        logged=True,
    ),
    **MODEL_METHODS,
    "keys.stats": Method(
        "Tells how the API keys of servers have fared, by their names.",
        lifecycle.EmptyParams,
        keys.KeysStatsResult,
    ),
    "models.route": Method(
        "Tells which model a `generate` would get, and why; it does not run.",
        inference.GenerateRequest,
        routing.RouteDecision,
    ),
    "models.health": Method(
        "Tells the state of all models: what there is, what is missing, who would get what.",
        lifecycle.EmptyParams,
        health.ModelsHealthResult,
    ),
    "routing.get_config": Method(
        "Reads how models are chosen.",
        lifecycle.EmptyParams,
        routing.RoutingConfigResult,
        inline=True,
    ),
    "routing.set_config": Method(
        "Sets how models are chosen, in every process on the state directory.",
        routing.RoutingSetConfigParams,
        routing.RoutingConfigResult,
        logged=True,
    ),
    "policy.list": Method(
        "Lists the rules about what requests may do, in the order in which they are asked.",
        lifecycle.EmptyParams,
        policy.PolicyRulesResult,
        inline=True,
    ),
    "policy.set": Method(
        "Sets rules, in every process on the state directory.",
        policy.PolicySetParams,
        policy.PolicyRulesResult,
        logged=True,
    ),
    "policy.remove": Method(
        "Removes a rule that was set.",
        policy.PolicyRemoveParams,
        policy.PolicyRulesResult,
        logged=True,
    ),
    "policy.approve": Method(
        "Asks the app whether something may happen, as a rule wants it asked.",
        policy.PolicyApproveParams,
        policy.PolicyApproveResult,
        direction="core_to_client",
    ),
    "models.stats": Method(
        "Tells how models did so far.", outcomes.ModelsStatsParams, outcomes.ModelsStatsResult
    ),
    "profiles.export": Method(
        "Hands out what was observed of the models.",
        lifecycle.EmptyParams,
        outcomes.ProfilesResult,
    ),
    "profiles.import": Method(
        "Takes over what was observed of models elsewhere.",
        outcomes.ProfilesImportParams,
        outcomes.ProfilesImportResult,
        logged=True,
    ),
    "outcomes.report": Method(
        "Tells whether an answer was of use; models are judged by it.",
        outcomes.OutcomesReportParams,
        outcomes.OutcomesReportResult,
        logged=True,
    ),
    "outcomes.resolve_pending": Method(
        "Tells of many answers at once whether they turned out to be right.",
        outcomes.OutcomesResolvePendingParams,
        outcomes.OutcomesResolvePendingResult,
        logged=True,
    ),
    "outcomes.scoreboard": Method(
        "Compares what models achieved, and what an accepted answer cost.",
        outcomes.OutcomesScoreboardParams,
        outcomes.OutcomesScoreboardResult,
    ),
    "spend.status": Method(
        "Tells what was spent, by all processes on the state directory, and what may be.",
        spend.SpendStatusParams,
        spend.SpendStatusResult,
    ),
    "spend.set_limits": Method(
        "Replaces the spend limits of all models, of one, or of a provider's.",
        spend.SpendLimits,
        spend.SpendStatusResult,
        logged=True,
    ),
    "admission.status": Method(
        "Tells how much work local models do, and how much waits for them.",
        lifecycle.EmptyParams,
        admission.AdmissionStatus,
        inline=True,
    ),
    "runner.register": Method(
        "Offers to run `delegated` models in the app; there is one runner at a time.",
        runner.RunnerRegisterParams,
        runner.RunnerRegisterResult,
        logged=True,
    ),
    "runner.unregister": Method(
        "Takes the offer back; runs in flight go on.",
        lifecycle.EmptyParams,
        runner.RunnerUnregisterResult,
        logged=True,
    ),
    "runner.run": Method(
        "Asks the app to run a model; events may come before its answer.",
        runner.RunnerRunParams,
        runner.RunnerResult,
        direction="core_to_client",
        stream="runner.event",
        error_data=runner.RunnerErrorData,
    ),
    "runner.event": Method(
        "Carries one event of a run; as a request it tells whether to go on.",
        runner.RunnerEventParams,
        runner.RunnerEventResult,
        kind="either",
        inline=True,
    ),
    "eventlog.query": Method(
        "Reads a page of the event log.", log.EventlogQueryParams, log.EventlogQueryResult
    ),
    "eventlog.subscribe": Method(
        "Sends events of the log, past and to come, until it is cancelled.",
        log.EventlogSubscribeParams,
        stream="eventlog.event",
    ),
    "eventlog.event": Method(
        "Carries an event of the log.",
        log.EventlogEventParams,
        kind="notification",
        direction="core_to_client",
    ),
    "eventlog.export": Method(
        "Writes events of the log to a file, or into its result.",
        log.EventlogExportParams,
        log.EventlogExportResult,
    ),
    "eventlog.verify": Method(
        "Checks that the log is as it was written.",
        lifecycle.EmptyParams,
        log.EventlogVerifyResult,
    ),
    "eventlog.purge": Method(
        "Deletes events for good.", log.EventlogPurgeParams, log.EventlogPurgeResult
    ),
    "eventlog.retention": Method(
        "Tells how long events are kept, and changes it.",
        log.EventlogRetentionParams,
        log.EventlogRetentionResult,
    ),
    "replay.run": Method(
        "Shows from the log what a request got, or runs or decides it again and compares.",
        replay.ReplayRunParams,
        replay.ReplayRunResult,
        stream="generate.event",
    ),
}
