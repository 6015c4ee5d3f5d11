package dev.mobilebundle.lm

import org.json.JSONException
import org.json.JSONObject

/** A line that mobile-run writes with `--json`. */
internal sealed class RunnerEvent {
    data class Install(val doneBytes: Long, val totalBytes: Long) : RunnerEvent()
    data class Load(val model: LoadedModel) : RunnerEvent()
    data class Reading(val progress: GenerationEvent.Reading) : RunnerEvent()
    data class Prompt(val started: GenerationEvent.Started) : RunnerEvent()

    /** [isRest]: no token, but the rest of a text that was cut. */
    data class Token(val text: String, val isRest: Boolean) : RunnerEvent()
    data class Done(val stats: GenerationStats) : RunnerEvent()
    data class State(val state: SavedState) : RunnerEvent()
    data class Error(val error: ModelError) : RunnerEvent()

    /** Lines that only one command writes; [json] is the whole line. */
    data class Other(val name: String, val json: JSONObject) : RunnerEvent()

    companion object {
        /** JSONException where the line is not the runner's. */
        @Throws(JSONException::class)
        fun parse(line: String): RunnerEvent {
            val json = JSONObject(line)
            return when (val name = json.getString("event")) {
                "install" -> Install(json.getLong("done_bytes"), json.getLong("total_bytes"))
                "load" -> Load(loadedModel(json))
                "reading" -> Reading(GenerationEvent.Reading(json.getInt("done_tokens"), json.getInt("total_tokens")))
                "prompt" -> Prompt(started(json))
                "token" -> Token(json.getString("text"), isRest = json.getInt("id") < 0)
                "done" -> Done(stats(json))
                "state" -> State(SavedState(json.getInt("tokens"), json.getLong("bytes"), json.getDouble("seconds")))
                "error" -> Error(error(json))
                else -> Other(name, json)
            }
        }

        private fun loadedModel(json: JSONObject): LoadedModel {
            val predicted = json.getJSONObject("predicted")
            return LoadedModel(
                kernels = json.getString("kernels"),
                threads = json.getInt("threads"),
                context = json.getInt("context"),
                loadSeconds = json.getDouble("load_seconds"),
                predictedPeakBytes = predicted.getLong("peak_bytes"),
                predictedAnonymousBytes = predicted.getLong("anon_bytes"),
            )
        }

        private fun started(json: JSONObject) = GenerationEvent.Started(
            promptTokens = json.getInt("tokens"),
            keptTokens = json.optInt("kept_tokens"),
            droppedMessages = json.optInt("dropped_messages"),
            seconds = json.getDouble("seconds"),
        )

        private fun stats(json: JSONObject) = GenerationStats(
            reason = when (json.getString("reason")) {
                "eos" -> FinishReason.END
                "stop" -> FinishReason.STOP
                "length" -> FinishReason.LENGTH
                "context" -> FinishReason.CONTEXT
                else -> FinishReason.CANCELLED
            },
            promptTokens = json.getInt("prompt_tokens"),
            tokens = json.getInt("tokens"),
            tokensPerSecond = json.getDouble("tokens_per_second"),
            promptTokensPerSecond = json.getDouble("prompt_tokens_per_second"),
            firstTokenSeconds = json.getDouble("first_token_seconds"),
            memory = memory(json.getJSONObject("memory")),
            stateBytes = json.optLong("state_bytes"),
        )

        fun memory(json: JSONObject) = ProcessMemory(
            peakBytes = json.getLong("peak_rss_bytes"),
            anonymousBytes = json.getLong("anon_bytes"),
            swappedBytes = json.getLong("swap_bytes"),
            majorFaults = json.getLong("major_faults"),
        )

        private fun error(json: JSONObject): ModelError {
            val message = json.getString("message")
            return when (json.optString("kind")) {
                // numeric: the model computes values that are not finite
                "format", "numeric" -> ModelError.BundleDamaged(message)
                "memory" -> ModelError.OutOfMemory(message)
                "argument" -> ModelError.BadRequest(message)
                else -> ModelError.BundleUnreadable(message)
            }
        }
    }
}
